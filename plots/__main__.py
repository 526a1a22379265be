"""``python -m plots``: redraw every figure from the newest result files, and only from them."""

from importlib import import_module

from bench import results
from plots.style import save

# figure, which a module draws → the sweep whose rows it shows
FIGURES = {
    "blur": "digits",
    "kernel_size": "kernel-size",
    "shapes": "shapes",
    "scaling": "scaling",
    "accuracy": "accuracy",
    "roofline": "roofline",
    "train_step": "train-step",
    "model": "model",
    "small_maps": "small-maps",
}


def main() -> None:
    for name, sweep in FIGURES.items():
        try:
            record = results.latest(sweep)
        except FileNotFoundError as missing:
            print(f"not drawn: {name}; {missing}")
            continue
        for path in save(import_module(f"plots.{name}").draw(record), name):
            print(f"drawn: {path}")


if __name__ == "__main__":
    main()
