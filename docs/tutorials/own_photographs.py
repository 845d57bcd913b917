# %% [markdown]
# # Your own photographs from Python
#
# `PHOTOS` is the folder that your annotation tool wrote: pictures, and annotations as VOC XML, COCO, YOLO, LabelMe or
# another format that [the program reads](../photographs.md). 50 pictures are enough for a start.
#
# The same from the command line:
#
# ```bash
# detector inspect data=PHOTOS
# detector train data=PHOTOS trainer.max_minutes=20 output_dir=runs/mine
# detector predict images=MORE_PHOTOS weights=runs/mine
# ```
#
# ## Train
#
# `train` plans all settings from the pictures, the machine and the minutes. It prints the plan and the time left.
# Ctrl-C stops and saves. `train(resume="runs/mine")` goes on.

# %%
from detector import load_detector, train

run = train("PHOTOS", minutes=20, output_dir="runs/mine")

# %% [markdown]
# ## How good is it?
#
# `metrics` has the scores on the test pictures. The mean average precision (mAP) is 1 if the detector finds all objects
# and nothing else.

# %%
print("mAP", round(run.metrics["voc07_11point"]["mAP"], 3))
for name, value in run.metrics["voc07_11point"]["AP"].items():
    print(f"{name:<20}{value:.3f}")

# %% [markdown]
# The page `runs/mine/analysis.html` has the curves, the errors and the worst pictures.
#
# ## Detect
#
# A detector takes a path, a Pillow picture, an array or a tensor. It returns boxes `x1, y1, x2, y2` in the picture's
# pixels, scores from 0 to 1 and names, best first.

# %%
detect = load_detector(run.path)
found = detect("street.jpg")
for number, name in enumerate(found.names):
    score = float(found.scores[number])
    if score > 0.5:
        print(name, round(score, 2), [round(value) for value in found.boxes[number].tolist()])

# %% [markdown]
# ## Change one thing
#
# The plan keeps your settings and fits the others. This trains the R-FCN head for the same time:

# %%
other = train("PHOTOS", minutes=20, output_dir="runs/rfcn", settings={"head": "rfcn"})
print("R-FCN", round(other.metrics["voc07_11point"]["mAP"], 3))

# %% [markdown]
# ## Keep it
#
# `model.safetensors` in the run's folder is one file with weights, classes and settings. `load_detector` takes it on
# any machine. [Export](../export.md) writes it for ONNX Runtime and for PyTorch without this project's code.
