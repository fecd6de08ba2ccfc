"""What tells a sweep's runs apart beside their sizes, in words for a table."""

from __future__ import annotations

from scaling.options import DinoV2Options, IbotHead, LabelSet, LearningRate, SupervisedOptions
from scaling.settings import differences


def test_settings_are_what_sets_runs_of_a_sweep_apart() -> None:
    small = DinoV2Options(prototypes=64, drop_path=0.1)
    large = DinoV2Options(prototypes=128, drop_path=0.1, lr=LearningRate(base=1e-3), teacher_temp=(0.04, 0.05))
    said = differences([small, large, small])
    assert said[0] == said[2]
    assert said[:2] == [
        "lr.base=0.004;lr.ref_batch=1024;lr.rule=sqrt;prototypes=64;teacher_temp=[0.04,0.07]",
        "lr.base=0.001;lr.ref_batch=256;lr.rule=linear;prototypes=128;teacher_temp=[0.04,0.05]",
    ]
    assert differences([small, small]) == ["", ""]
    own = small.model_copy(update={"ibot_head": IbotHead(prototypes=32, hidden=8, bottleneck=4)})
    assert differences([small, own]) == [
        "ibot_head=tied",
        "ibot_head.bottleneck=4;ibot_head.hidden=8;ibot_head.prototypes=32",
    ]


def test_labels_that_a_plan_found_set_no_runs_apart() -> None:
    one, other = (SupervisedOptions(labels=LabelSet(identity=i * 64, heads=())) for i in "01")
    assert differences([one, other]) == ["", ""]
