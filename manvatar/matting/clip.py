"""Head mattes of a whole clip: the person's matte, then the cut at the neck, with what belongs to the clip kept."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor

from manvatar.geometry import project, transform
from manvatar.matting.head import HeadMatte, HeadSample
from manvatar.matting.person import PersonMatte
from manvatar.types import Camera

# What the person network looks at around the midpoint of the eyes, in heights of the chin under the eyes:
# hair above, shoulders below.
_VIEW_UP, _VIEW_DOWN, _VIEW_ASIDE = 1.9, 2.1, 2.0


class ClipMatte:
    """Head mattes of the frames of one clip.

    >>> matte = ClipMatte(landmarks_head_m(track, model, "ibug68"), track.cam_from_head, camera)
    >>> matte.fit((frame, image) for ...)        # a few dozen frames spread over the clip
    >>> alpha = matte(frame, image)              # every frame, in order

    Args:
        landmarks_m: iBUG-68 points in the head frame for every frame of the clip.
        cam_from_head: pose of every frame.
        camera: of the images that will be given (a crop's camera if they are crops).
    """

    def __init__(
        self,
        landmarks_m: Float[Tensor, "frames 68 3"],
        cam_from_head: Float[Tensor, "frames 4 4"],
        camera: Camera,
    ) -> None:
        self._landmarks_m, self._cam_from_head = landmarks_m.float().cpu(), cam_from_head.float().cpu()
        self._camera = camera
        self._view_px = _view_px(self._landmarks_m, self._cam_from_head, camera)
        self._person = PersonMatte(self._view_px)
        self.head = HeadMatte(self._landmarks_m.median(0).values)

    def fit(self, images: Iterable[tuple[int, Tensor]]) -> None:
        """Learn how far down the neck is bare, from pairs of frame number and (height, width, 3) image."""
        still = PersonMatte(self._view_px, steadiness=0.0)  # these frames do not follow one another
        self.head.fit(self._sample(frame, image, still(image)) for frame, image in images)

    def __call__(self, frame: int, image: Tensor) -> Float[Tensor, "height width"]:
        """Alpha of the head in [0, 1], float32; give the frames in order.

        Args:
            frame: row of the landmarks and poses.
            image: (height, width, 3), uint8 or float32 in [0, 1], seen by the camera.
        """
        return self.head_alpha(frame, image, self.person_alpha(image))

    def rough_person(self, image: Tensor) -> Tensor:
        """The first third of a call, frames in order; each third may run in a thread of its own."""
        return self._person.rough(image)

    def person_alpha(self, image: Tensor, rough: Tensor | None = None) -> Float[Tensor, "height width"]:
        """The second third: alpha of the whole person. Without ``rough`` the first one is done, too."""
        return self._person.sharpened(image, self._person.rough(image) if rough is None else rough)

    def head_alpha(
        self, frame: int, image: Tensor, person_alpha: Float[Tensor, "height width"]
    ) -> Float[Tensor, "height width"]:
        """The last third: the person without the body."""
        return self.head(self._sample(frame, image, person_alpha))

    def _sample(self, frame: int, image: Tensor, person_alpha: Tensor) -> HeadSample:
        return HeadSample(image, person_alpha, self._camera, self._cam_from_head[frame], self._landmarks_m[frame])


def _view_px(
    landmarks_m: Float[Tensor, "frames 68 3"], cam_from_head: Float[Tensor, "frames 4 4"], camera: Camera
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the part of the image in which the head and shoulders are in nearly all frames."""
    points = project(camera, transform(cam_from_head, landmarks_m))
    eyes = points[:, 36:48].mean(1)
    unit = float((points[:, 8] - eyes).norm(dim=-1).quantile(0.95))
    low, high = eyes.quantile(0.01, dim=0), eyes.quantile(0.99, dim=0)
    width, height = camera.size_px
    left, top = float(low[0]) - _VIEW_ASIDE * unit, float(low[1]) - _VIEW_UP * unit
    right, bottom = float(high[0]) + _VIEW_ASIDE * unit, float(high[1]) + _VIEW_DOWN * unit
    return max(0, round(left)), max(0, round(top)), min(width, round(right)), min(height, round(bottom))
