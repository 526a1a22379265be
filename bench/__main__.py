"""``python -m bench <command> [options]``; ``python -m bench list`` names the commands."""

import sys
from importlib import import_module

# command → (module with main(argv), what it does); imported only when asked for
COMMANDS = {
    "digits": ("bench.demo", "train a small AKM network on handwritten digits"),
    "fewshot": ("bench.fewshot.train", "meta-learn few-shot classification; --help for settings"),
    "meta": ("bench.meta", "time and memory of meta-gradients over tasks and inner steps"),
    "kernel-size": ("bench.sweeps", "throughput over kernel size, beside every rival"),
    "campaign": ("bench.campaign", "all that is worth minutes of a GPU; --rehearse without one"),
    "launch": ("bench.launch", "host time of a call, without the launch itself"),
    "tune-device": ("bench.tune_device", "tune this GPU and write the table shipped for it"),
    "codegen": ("bench.codegen", "what the kernels compile to, without a GPU"),
}


def main(argv: list[str]) -> int:
    if argv == ["list"]:
        for name, (_, purpose) in COMMANDS.items():
            print(f"{name:<12} {purpose}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m bench {{list,{','.join(COMMANDS)}}} [options]", file=sys.stderr)
        return 2
    import_module(COMMANDS[argv[0]][0]).main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
