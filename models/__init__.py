"""Networks: two encoders, two decoders, search, and the losses that train them.

Legend of shapes, used in every docstring of this package:
    B  images in a batch             H W  pixels            h w  feature positions of stride x stride pixels
    C  channels of the encoder       D    model width       L    token positions
    A  width of attention's keys     E    width of embeddings
    V  size of the vocabulary        K    token rows per image (reading directions x beams)      R = B x K rows

Rows are image-major: row `r` belongs to image `r // K`.
`padding` is bool and True where there is NO image; an image lies in the upper left corner of its place in the batch.
Token ids: 0 pads, 1 starts and 2 ends a formula. Read from right to left, 2 starts and 1 ends it.
"""
