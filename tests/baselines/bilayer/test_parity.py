"""Our networks give what the released code gave for the same weights (tests/baselines/bilayer/parity.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from baselines.bilayer import parity
from baselines.bilayer.tiny_model import TINY

_KEPT = json.loads(Path(__file__).with_name("parity.json").read_text())


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_outputs_of_the_released_code(kind: str, tmp_path: Path) -> None:
    training = kind == "training"
    parity.write_weights(tmp_path, TINY)
    model, discriminator = parity.load(tmp_path, spectral_norm=training, dtype=torch.float32)
    if training:
        ours = parity.training_outputs(model, discriminator, parity.inputs(TINY, people=2, photos_per_person=1))
    else:
        ours = parity.outputs(model, discriminator, parity.inputs(TINY, 2, photos_per_person=2), 2)
    theirs = _KEPT[kind]
    assert ours.keys() == theirs.keys()
    for name, numbers in theirs.items():
        expected = torch.tensor(numbers, dtype=torch.float64)
        assert expected.std() > 0.02, name  # an output that does not vary would prove nothing
        got = torch.tensor(parity.picked(ours[name]), dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
