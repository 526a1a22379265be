"""``python -m bench <command> [options]``; ``python -m bench list`` prints the commands."""

import sys
from importlib import import_module

# command → (module with main(argv), what it does); a module is imported when its command runs
COMMANDS = {
    "digits": ("bench.digits", "train a small AKM network on handwritten digits"),
    "correctness": ("bench.correctness", "check every kind of kernel on this GPU against float64"),
    "kernel-size": ("bench.kernel_size", "throughput over kernel size, next to every rival"),
    "shapes": ("bench.shapes", "throughput on the maps of common networks, next to every rival"),
    "dimensions": ("bench.dimensions", "throughput on signals and volumes, next to every rival"),
    "scaling": ("bench.scaling", "time over batch, channels and map size"),
    "accuracy": ("bench.accuracy", "errors against float64, ours and each rival's"),
    "roofline": ("bench.roofline", "every kernel, and the two ceilings of the device"),
    "small-maps": ("bench.small_maps", "small maps in CUDA graphs, next to an identity kernel"),
    "train-step": ("bench.train_step", "ResNet steps: plain, AKM, composed, compiled"),
    "fewshot": ("bench.fewshot.train", "meta-learn few-shot classification"),
    "fewshot-table": ("bench.fewshot.table", "compare finished few-shot runs in pairs"),
    "experiment": ("bench.experiments.command", "what AKM is good for: experiments"),
    "meta": ("bench.meta", "time and memory of meta-gradients over tasks and inner steps"),
    "launch": ("bench.launch", "host time of a call, with Triton's launcher"),
    "predict": ("bench.predict.command", "speed predicted from machine code; needs no GPU"),
    "predict-dimensions": ("bench.predict.dimensions", "the same of signals and volumes"),
    "candidates": ("bench.predict.candidates", "the tuner's order of candidates, and predict's"),
    "codegen": ("bench.codegen", "what the kernels compile to; needs no GPU"),
    "tune-device": ("bench.tune_device", "tune this GPU and write its device table"),
    "campaign": ("bench.campaign", "every GPU measurement in a few minutes, or its rehearsal"),
}


def main(argv: list[str]) -> int:
    if argv == ["list"]:
        for name, (_, purpose) in COMMANDS.items():
            print(f"{name:<18} {purpose}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        print(f"usage: python -m bench {{list,{','.join(COMMANDS)}}} [options]", file=sys.stderr)
        return 2
    import_module(COMMANDS[argv[0]][0]).main(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
