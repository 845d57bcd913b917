"""Writers of the formats that most tools read: VOC, COCO, YOLO and tar shards, each in one file.

Each writes a train and a test split, with pictures, into a new folder. Classes, boxes and splits, which all formats
have, do not change.
"""
