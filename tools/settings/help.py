"""The help of the program, and of a command with its settings."""

from __future__ import annotations

from collections.abc import Sequence

HELP = """\
usage: detector COMMAND [key=value ...]

commands
  train      train a detector                     detector train experiment=demo
  plan       print the plan without training      detector plan data=my_photos
  alternate  train RPN and head in four steps     detector alternate experiment=faster_rcnn_resnet50_voc0712
  eval       score a model or its detections      detector eval weights=runs/demo
  analyze    show all errors on one HTML page     detector analyze detections=runs/demo
  compare    compare two runs or two protocols    detector compare a=runs/one b=runs/two
  benchmark  time and memory by part and backend  detector benchmark experiment=rfcn_resnet50_voc0712_ohem
  predict    detect in pictures or a video        detector predict images=photos/ weights=runs/demo
  export     write a model for other programs     detector export weights=runs/demo output=model.safetensors
  convert    convert Caffe, Detectron2 weights    detector convert source=FILE output=model.safetensors
  compress   shrink the layers per RoI by SVD     detector compress weights=runs/vgg ranks=[1024,256] output=small
  inspect    find faults and oddities in data     detector inspect data=photos output=report
  dataset    convert to VOC, COCO, YOLO or tar    detector dataset source=photos output=photos_voc format=voc
  proposals  compute or check proposals           detector proposals dataset.root=VOCdevkit
  download   fetch Pascal VOC                     detector download root=VOCdevkit years=2007,2012
  explain    draw what an operator does           detector explain roi_pool
  config     show settings and their sources      detector config explain trainer.max_steps experiment=demo
  info       show versions, kernels, choices      detector info
  docs       print the path of a manual page      detector docs troubleshooting
  completion print a shell's completion script    detector completion bash

train on your own photographs or on Pascal VOC, resume a run, sweep:
  detector train data=my_photos                   plan, print the expected time, train, report
  detector train data=my_photos trainer.max_minutes=20
  detector train experiment=fast_rcnn_vgg16_voc07 dataset.root=VOCdevkit
  detector train resume=runs/demo                 from its last checkpoint
  detector train experiment=demo output_dir=runs/demo resume=auto      from the newest intact one, or a new run
  detector train config=runs/demo/config.yaml     repeat a run in a new folder
  detector train --multirun experiment=demo trainer.seed=1,2,3
  detector train --config-dir my_configs experiment=mine          my_configs/experiment/mine.yaml
  detector train experiment=demo --cfg job        print the settings, do not train; --info: their sources

groups (group=NAME picks one, group.key=value changes it)
{groups}

detector COMMAND --help shows a command's settings with their values.
completion in the shell: eval "$(detector completion bash)"
exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 stopped by a signal after saving, 4 loss not finite
"""


def program_help() -> str:
    """Return the help of the program, with the choices of each group."""
    from detector.configs.choices import choices
    from detector.configs.groups import GROUPS

    lines = [f"  {group:<12}{' '.join(choices(group))}" for group in (*GROUPS, "experiment")]
    return HELP.format(groups="\n".join(lines))


def asks_help(words: Sequence[str]) -> bool:
    """Return True if -h or --help is among the words."""
    return bool({"-h", "--help"} & set(words))


def shows_help(words: list[str], own: tuple[str, ...] = ()) -> bool:
    """If --help is among the words, print the help and the settings with the overrides, and return True.

    `own` lists the keys of the command that are not settings. Raises ConfigError for a wrong key, before Hydra and
    torch are loaded.
    """
    from detector.configs.keys import check_words

    settings = [word for word in words if not word.startswith(("-", *(f"{key}=" for key in own)))]
    check_words(settings)
    if not asks_help(words):
        return False
    from omegaconf import OmegaConf

    from detector.configs.compose import load_config
    from detector.configs.groups import to_plain

    print(program_help())
    config = load_config(settings)
    print("settings\n" + OmegaConf.to_yaml(OmegaConf.create(to_plain(config))))
    return True
