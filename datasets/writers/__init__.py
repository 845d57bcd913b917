"""Writers of the formats that most tools read: VOC, COCO and YOLO, one a file.

Each writes two sides, train and test, into a folder that is new, pictures and all. What the formats share comes back
the same: classes, boxes, splits.
"""
