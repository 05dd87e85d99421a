"""The walk over the linear regions of a network's perturbation parameters, and how it grades them.

`layers` and `net` write the network for the kernels; `kernels` keep one region's affine maps, gradients and saliency
maps up to date from region to region; `polygon` and `plane` walk two parameters, `programs` any number; `walk` and
`cells` hand regions out. What a region is graded by travels with the walk's state: that is why this is not geometry.
"""
