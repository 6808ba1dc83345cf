"""Model files of real shapes with random weights, made when first needed.

They come from make_model.py, which is not part of this repository: it lies in
../shared/bench beside a checkout, or where --make-model says.
"""
import os
import subprocess
import sys

# name: arguments of make_model.py
SHAPES = {
    "olmoe-1b-7b": ["olmoe-1b-7b"],
    "qwen3-30b-a3b-12": ["qwen3-30b-a3b", "--layers", "12", "--vocab",
                         "32000"],
    "mixtral-8x7b-4": ["mixtral-8x7b", "--layers", "4"],
    "deepseek-v2-lite": ["deepseek-v2-lite"],
    # For what needs it twice in memory.  (llama.cpp knows the model by its 27.)
    "deepseek-v2-lite-13": ["deepseek-v2-lite", "--layers", "13"],
    "dense-13b-active-4": ["dense-13b-active", "--layers", "4"],
}
TITLES = {
    "olmoe-1b-7b": "OLMoE 1B-7B",
    "qwen3-30b-a3b-12": "Qwen3 30B-A3B, 12 of 48 layers",
    "mixtral-8x7b-4": "Mixtral 8x7B, 4 of 32 layers",
    "deepseek-v2-lite": "DeepSeek-V2-Lite",
    "deepseek-v2-lite-13": "DeepSeek-V2-Lite, 13 of 27 layers",
    "dense-13b-active-4": "dense, active size of Mixtral 8x7B, 4 of 32 layers",
}
MEASURED = ["olmoe-1b-7b", "qwen3-30b-a3b-12", "mixtral-8x7b-4",
            "deepseek-v2-lite"]


class Files:
    def __init__(self, folder, make_model, python=sys.executable):
        self.folder, self.make_model, self.python = folder, make_model, python

    def get(self, name, kind="q4_k", shape=None):
        """The path of a file; `shape` for one that SHAPES does not have."""
        path = os.path.join(self.folder, "%s-%s.gguf" % (name, kind))
        if os.path.exists(path):
            return path
        if self.make_model is None:
            raise FileNotFoundError("%s is not there, nor make_model.py to "
                                    "make it: see --make-model" % path)
        os.makedirs(self.folder, exist_ok=True)
        arguments = shape or SHAPES[name]
        part = path + ".part"
        subprocess.run([self.python, self.make_model, arguments[0], part,
                        *arguments[1:], "--type", kind],
                       check=True, stdout=subprocess.DEVNULL)
        os.rename(part, path)
        return path

    def drop(self, path):
        """Of a file that only one question needs."""
        os.remove(path)
        for each in os.listdir(self.folder):  # what was kept beside it
            if each.startswith(os.path.basename(path) + "."):
                os.remove(os.path.join(self.folder, each))
