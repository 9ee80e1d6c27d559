"""What becomes of pixels when they are shown."""

import torch

from waypoint_parity.candidate.pictures import Pictures


def test_pixels_are_cut_off_and_rounded() -> None:
    row = torch.tensor([-0.2, 0.0, 0.5, 0.5055, 1.0, 1.5]).view(1, 1, 1, 6).expand(4, 3, 2, 6)
    pictures = Pictures()(row)
    assert (pictures.shape, pictures.dtype) == ((4, 2, 6, 3), torch.uint8)
    assert pictures[2, 1, :, 0].tolist() == [0, 0, 128, 129, 255, 255]


def test_one_picture_stands_alone_with_its_channels_last() -> None:
    pixels = torch.zeros(1, 3, 4, 5)
    pixels[0, 1, 2, 3] = 1
    picture = Pictures()(pixels)
    assert picture.shape == (4, 5, 3)
    assert picture.nonzero().tolist() == [[2, 3, 1]]
