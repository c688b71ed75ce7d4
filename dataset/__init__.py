"""Data: reading packages, storing images, drawing formulas, making batches.

On disk a data set is `datasets/NAME/SPLIT/labels.txt` with `images/` beside it: the plain form (`formats/items.py`).
The network's side of every image is uint8 (H, W) with ink 255 on paper 0 (see `utils/reading/images.py`).
"""
