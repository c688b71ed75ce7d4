"""Networks: two encoders, two decoders, what they are taught by, and the search that lets them read.

Legend of shapes, used in every docstring of this package:
    B  pictures in a batch            H W  pixels            h w  feature cells of stride x stride pixels
    C  channels of the encoder        D    model width       L    token positions
    V  size of the vocabulary         K    token rows per picture (reading directions x beams)

Rows are picture-major: row `r` of B*K belongs to picture `r // K`.
`padding` is bool and True where there is NO picture; a picture lies in the upper left corner of its place in the batch.
Token ids: 0 pads, 1 starts and 2 ends a formula. Read from right to left, 2 starts and 1 ends it.
"""
