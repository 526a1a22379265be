"""``python -m plots``: redraw every figure from the newest result files."""

from bench import results
from plots import blur, kernel_size
from plots.style import save


def main() -> None:
    digits, sweep = results.latest("digits"), results.latest("kernel-size")
    for name, figure in (("blur", blur.draw(digits)), ("kernel_size", kernel_size.draw(sweep))):
        for path in save(figure, name):
            print(f"drawn: {path}")


if __name__ == "__main__":
    main()
