"""Dense refinement: the track is made to show every point of the skin where it is seen, not only the landmarks.

Landmark detectors err slowly: a nod of 10 degrees is reported as one of 7, and every frame of it looks plausible. What
the skin looks like cannot be fooled that way. A few key frames and what they show are fitted in turns; then all frames
are fitted to that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from manvatar.tracking.failures import interpolated
from manvatar.tracking.optimise import Terms, minimise
from manvatar.tracking.patches import Patches
from manvatar.tracking.photometric import Photometric
from manvatar.tracking.priors import MotionPrior, motion_prior
from manvatar.tracking.problem import Problem, State
from manvatar.tracking.skin import Skin
from manvatar.tracking.stages import OVERLAP, WINDOW, Fit

Progress = Callable[[float], None]
_THIN = 4  # the first steps of all frames look at one in so many points


def refined(fit: Fit, state: State, patches: Patches, skin: Skin, progress: Progress | None = None) -> State:
    """Poses and expressions under the photometric, the landmark and the motion terms; the focal length is fixed.

    The neutral landmarks follow the key frames, so that what a detector gets wrong in every frame stays out of the
    expressions.

    Args:
        state: of the frames of ``fit.problem``.
        patches: of the whole clip.
        progress: called with the share done in [0, 1].
    """
    config, progress = fit.config, progress or (lambda share: None)
    count = len(fit.problem.frame)
    keys = torch.linspace(0, count - 1, min(count, config.dense_key_frames)).round().long().unique()
    term = Photometric.start(patches, skin, fit.problem.frame[keys], config.dense_strength)
    known, problem = state.select(keys), fit.problem.select(keys)
    for turn in range(config.dense_turns):
        term = term.seen(known).learnt(known)
        known = minimise(_terms(fit, problem, term), known, max_steps=1, tolerance=0.0).state
        progress(0.4 * (turn + 1) / config.dense_turns)
    known = fit.neutral(problem, known)
    term = term.seen(known).learnt(known)
    state = _corrected(state, keys, known)
    result = state
    for inner in torch.arange(count).split(WINDOW):
        first, stop = int(inner[0]), int(inner[-1]) + 1
        low = max(0, first - OVERLAP)
        rows = torch.arange(low, min(count, stop + OVERLAP))
        some = _all_frames(fit, state.select(rows), term, rows)
        result = result.put(inner, some.select(inner - low))
        progress(0.4 + 0.6 * stop / count)
    return result


def _corrected(state: State, keys: torch.Tensor, known: State) -> State:
    """All frames with the key frames as ``known``; those between move along: a detector's errors change slowly."""
    before = state.select(keys)
    change = State(
        known.rotation @ before.rotation.transpose(1, 2),
        known.translation_m - before.translation_m,
        known.expression - before.expression,
        known.shape_m,
        known.log_focal,
    )
    change = interpolated(change, keys, torch.arange(len(state.rotation)))
    return State(
        change.rotation @ state.rotation,
        state.translation_m + change.translation_m,
        state.expression + change.expression,
        known.shape_m,
        known.log_focal,
    )


def _all_frames(fit: Fit, state: State, term: Photometric, rows: torch.Tensor) -> State:
    problem, config = fit.problem.select(rows), fit.config
    prior = motion_prior(problem.frame, fit.expression_names, fit.frame_rate_hz, config)
    coarse = term.thinned(_THIN).of_frames(problem.frame).seen(state)
    terms = _terms(fit, problem, coarse)
    state = minimise(terms, state, max_steps=2 * config.dense_steps, tolerance=config.tolerance).state
    fine = term.of_frames(problem.frame).seen(state)
    # Without the first of these, or with more steps under the prior, poses are smoother and avatars worse.
    for motion in (None, prior):
        terms = _terms(fit, problem, fine, motion)
        state = minimise(terms, state, max_steps=config.dense_steps, tolerance=config.tolerance).state
    return state


def _terms(fit: Fit, problem: Problem, photometric: Photometric, motion: MotionPrior | None = None) -> Terms:
    return Terms(problem, motion=motion, photometric=photometric, landmark_trust=fit.config.dense_landmark_trust)
