"""The settings of a training that takes a second: two pictures of 48x64, one step."""

TINY = [
    "experiment=demo",
    "dataset.train=2",
    "dataset.test=1",
    "dataset.height=48",
    "dataset.width=64",
    "input.short_sides=[48]",
    "input.test_short_side=48",
    "backbone.width=0.125",
    "backbone.tail_channels=16",
    "trainer.max_steps=1",
    "trainer.images_per_step=2",
    "trainer.workers=0",
    "trainer.device=cpu",
    "trainer.eval_images=0",
]
