"""``python -m plots``: redraw every figure from the newest result files."""

from bench import results
from plots import blur, fewshot, kernel_size
from plots.style import save


def main() -> None:
    digits, sweep = results.latest("digits"), results.latest("kernel-size")
    figures = {"blur": blur.draw(digits), "kernel_size": kernel_size.draw(sweep)}
    runs = results.every("fewshot/glyphs-5way-1shot-*")
    if runs:
        figures["fewshot"] = fewshot.draw(runs)
    for name, figure in figures.items():
        for path in save(figure, name):
            print(f"drawn: {path}")


if __name__ == "__main__":
    main()
