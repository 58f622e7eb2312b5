"""A person of the few-shot model: fine-tuned on some pictures, kept in a folder, driven like a photo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from manvatar.baselines import losses
from manvatar.baselines.corpus.prepare import SUFFIXES
from manvatar.baselines.fewshot.episodes import on_white
from manvatar.baselines.fewshot.meta import FineTuner, Head, MetaConfig
from manvatar.baselines.fewshot.networks import FewShotModel, Generator, ProjectionDiscriminator
from manvatar.baselines.fewshot.training import FewShotConfig, load_part, read_tensors, write_tensors
from manvatar.baselines.photo import Crop, Photo, prepare_photo, read_picture
from manvatar.baselines.stickman import draw_stickman
from manvatar.config import from_table
from manvatar.errors import UserError
from manvatar.files import make_folder
from manvatar.tracking import load_track, save_track
from manvatar.types import FaceModel, Track
from manvatar.video import frames, open_clip

HEAD, TRACK = "head.safetensors", "track.safetensors"
_MAKER = "manvatar fewshot finetune"


@dataclass(frozen=True)
class FewShotPerson:
    """What is needed to show a person in any pose.

    Attributes:
        track: of one frame: identity, camera and pose of the first picture, which drivers move from.
        crop: of that picture.
    """

    config: FewShotConfig
    head: Head
    track: Track
    crop: Crop

    def save(self, folder: Path) -> None:
        """Write ``head.safetensors`` and ``track.safetensors``."""
        make_folder(folder)
        facts = {"kind": "person", **dataclasses.asdict(self.config), "crop": dataclasses.asdict(self.crop)}
        write_tensors(folder / HEAD, self.head.state_dict(), facts)
        save_track(self.track, folder / TRACK)

    @classmethod
    def load(cls, folder: Path) -> FewShotPerson:
        """Read a folder that :meth:`save` wrote.

        Raises:
            UserError: a file is missing or holds something else.
        """
        facts, tensors = read_tensors(folder / HEAD, "person", _MAKER)
        crop = from_table(Crop, facts.pop("crop", {}), f"the crop in {folder / HEAD}")
        config = from_table(FewShotConfig, facts, f"the sizes in {folder / HEAD}")
        generator = Generator(*dataclasses.astuple(config))
        head = Head(generator, generator.neutral())
        load_part(head, tensors, "", folder / HEAD)
        return cls(config, head.eval(), load_track(folder / TRACK), crop)

    def network(self) -> Callable[[Float[Tensor, "images 136"]], tuple[Tensor, Tensor]]:
        """Keypoints to images in [-1, 1] and a mask of ones: the model draws its own background, white."""
        head = self.head.eval()

        def show(keypoints: Float[Tensor, "images 136"]) -> tuple[Tensor, Tensor]:
            image = head(draw_stickman(keypoints, self.config.image_size_px, "fewshot"))
            return image, torch.ones_like(image[:, :1])

        return show


def fine_tuned(
    photos: list[Photo],
    weights: tuple[FewShotConfig, FewShotModel, ProjectionDiscriminator],
    iterations: int,
    meta: MetaConfig,
    perceptual: tuple[losses.WeightedLoss, ...] = (),
    seed: int = 0,
    device: torch.device | str = "cpu",
    every: Callable[[dict[str, Tensor]], None] = lambda terms: None,
) -> FewShotPerson:
    """The person of some pictures.

    Args:
        photos: at least one, of the size of the model.
        iterations: each sees one picture.
        every: is given the terms of the loss after each iteration.
    """
    config, model, discriminator = weights
    images = torch.cat([on_white(photo.image, photo.matte) for photo in photos]).to(device)
    keypoints = torch.cat([photo.keypoints for photo in photos])
    stickmen = draw_stickman(keypoints, config.image_size_px, "fewshot").to(device)
    tuner = FineTuner(model.to(device), discriminator.to(device), images, stickmen, meta, perceptual, seed)
    for _ in range(iterations):
        every(tuner.step())
    return FewShotPerson(config, tuner.head.eval(), photos[0].track, photos[0].crop)


def pictures_of(paths: tuple[Path, ...], count: int) -> list[UInt8[Tensor, "_ _ 3"]]:
    """Pictures, those in folders, and ``count`` frames of each video, evenly.

    Raises:
        UserError: there is none, or a file cannot be read.
    """
    found: list[UInt8[Tensor, "_ _ 3"]] = []
    for path in paths:
        if path.suffix.lower() in SUFFIXES:
            clip = open_clip(path)
            wanted = set(torch.linspace(0, clip.frame_count - 1, min(count, clip.frame_count)).long().tolist())
            found += [frame.image.clone() for frame in frames(clip) if frame.index in wanted]
        elif path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
            if not inside:
                raise UserError(f"{path} holds no picture (.png, .jpg); give pictures of the person or a video")
            found += [read_picture(p) for p in inside]
        else:
            found.append(read_picture(path))
    return found


def prepared(
    pictures: list[UInt8[Tensor, "_ _ 3"]], face_model: FaceModel, size_px: int, landmarks: str
) -> tuple[list[Photo], list[str]]:
    """The pictures that show a face as the model takes them, and a sentence about each of the others.

    Raises:
        UserError: none shows a face.
    """
    photos, reasons = [], []
    for number, picture in enumerate(pictures):
        try:
            photos.append(prepare_photo(picture, face_model, size_px, landmarks))
        except UserError as error:
            reasons.append(f"picture {number + 1}: {error}")
    if not photos:
        raise UserError(f"no picture could be used; {reasons[0]}" if reasons else "there is no picture; give some")
    return photos, reasons
