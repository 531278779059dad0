"""Named plans as data: which phases they make from which facts, what they refuse, and that YAML keeps them."""

import dataclasses

import pytest
import yaml

from tfft import plans
from tfft.config import Phase, Plan, RunConfig
from tfft.errors import PlanError
from tfft.plans import DatasetStats, NamedPlan, format_plan, recommend, summarize_plan

FACTS = DatasetStats(1437, 10, 18, (224, 224), True, 224.0)


def phases(plan, stats=FACTS, **config):
    return recommend(stats, RunConfig(**config), plan=plan).phases


def test_every_plan_makes_phases_that_can_be_shown_and_read_back():
    for name in plans.PLAN_NAMES:
        plan = recommend(FACTS, plan=plans.named(name), backbone="b", data="d")
        assert plan.name == name
        assert Plan.from_dict(yaml.safe_load(yaml.safe_dump(plan.to_dict()))) == plan
        text = format_plan(plan)
        assert f"plan for b: {name}" in text
        assert all(phase.name in text for phase in plan.phases)


def test_gradual_goes_down_from_the_top_and_slows_down_by_group():
    head, *stages = phases(plans.gradual(stages=3), unfreeze=6, epochs=6)
    assert head.head == "linear_probe"
    assert [stage.unfreeze for stage in stages] == [2, 4, 6]
    assert [stage.epochs for stage in stages] == [2, 2, 2]
    assert stages[0].layer_decay ** 2 == pytest.approx(1 / 2.6, abs=1e-3)  # two blocks are a group
    assert {stage.schedule for stage in stages} == {"slanted"}
    with pytest.raises(PlanError, match="takes 1 to 6 stages for 6 blocks, received 7"):
        phases(plans.gradual(stages=7), unfreeze=6)
    with pytest.raises(PlanError, match="so unfreeze must be an integer, received 'block3'"):
        phases(plans.gradual(), unfreeze="block3")


def test_random_weights_are_trained_as_a_whole():
    plan = recommend(dataclasses.replace(FACTS, pretrained=False), RunConfig(batch_size=32))
    assert plan.name == "from_scratch"
    [phase] = plan.phases
    assert (phase.unfreeze, phase.head, phase.optimizer, phase.learning_rate) == ("all", "train", "adamw", 1e-3)
    assert phase.epochs == 60  # of 45 steps, more would only repeat them
    many = recommend(dataclasses.replace(FACTS, pretrained=False, examples=9600), RunConfig(batch_size=32))
    assert many.phases[0].epochs == 10  # of 300 steps
    assert "random" in plan.reasons["plan"]
    few = recommend(dataclasses.replace(FACTS, pretrained=False, examples=30, smallest=3), RunConfig(epochs=7))
    assert (few.name, few.phases[0].epochs) == ("from_scratch", 7)
    varied = recommend(dataclasses.replace(FACTS, pretrained=False), RunConfig(epochs=20, augment="flip"))
    assert varied.views == 20  # nothing is computed once, so a view costs no more than its repeat


@pytest.mark.parametrize(
    ("examples", "steps", "mixup"),
    [(19_999, 500, 0.0), (20_000, 10_000, 0.1), (499_999, 10_000, 0.1), (500_000, 20_000, 0.1)],
)
def test_bit_follows_the_number_of_examples(examples, steps, mixup):
    [phase] = phases(plans.bit(), dataclasses.replace(FACTS, examples=examples), batch_size=512)
    per_epoch = -(-examples // 512)
    assert (phase.epochs - 1) * per_epoch < steps <= phase.epochs * per_epoch
    assert phase.mixup_alpha == mixup
    assert (phase.optimizer, phase.schedule, phase.unfreeze) == ("sgd", "steps", "all")
    assert phase.learning_rate == pytest.approx(0.003)


def test_fastai_halves_the_rate_and_the_lowest_block_gets_a_hundredth():
    head, rest = phases(plans.fastai())
    assert (head.unfreeze, head.epochs, head.learning_rate) == ("none", 1, 2e-3)
    assert (rest.unfreeze, rest.learning_rate, rest.schedule) == ("all", 1e-3, "one_cycle")
    assert rest.layer_decay**18 == pytest.approx(0.01, rel=0.01)


def test_few_examples_are_never_given_to_a_random_head():
    few = dataclasses.replace(FACTS, examples=30, smallest=2, largest=4)
    plan = recommend(few)
    assert plan.name == "few_shot"
    assert plan.phases == (Phase("frozen", "none", 0, 0.0, head="nearest_mean"),)
    assert "2 examples in the smallest class" in plan.reasons["plan"]
    five = recommend(dataclasses.replace(few, smallest=5))
    assert [phase.solves_head for phase in five.phases] == [True]
    enough = recommend(dataclasses.replace(few, smallest=10))
    assert enough.name == "lp_ft"
    asked = recommend(few, RunConfig(epochs=3))  # who asks for fine-tuning gets it
    assert [phase.name for phase in asked.phases] == ["frozen", "fine-tune"]


def test_small_images_train_at_a_higher_rate_unless_few_train_a_new_head():
    def rate(side, examples, plan):
        facts = dataclasses.replace(FACTS, image_side=side, examples=examples, smallest=examples // 4)
        return recommend(facts, plan=plans.named(plan)).phases[-1].learning_rate

    assert rate(64, 100, "lp_ft") == rate(8, 1000, "lp_ft") == rate(64, 1000, "full") == 1e-3
    assert rate(65, 100, "lp_ft") == rate(64, 999, "full") == 3e-4


def test_half_of_the_blocks_train_unless_the_head_is_not_solved():
    def count(examples, task="classification"):
        return recommend(dataclasses.replace(FACTS, examples=examples), RunConfig(task=task)).phases[-1].unfreeze

    assert [count(examples) for examples in (100, 4_999, 49_999, 50_000)] == [9, 9, 9, "all"]
    assert [count(examples, "object_detection") for examples in (499, 4_999, 5_000)] == [3, 6, 9]


def test_unequal_classes_are_pointed_out():
    plan = recommend(dataclasses.replace(FACTS, smallest=20, largest=300))
    assert "the largest class has 300 examples, the smallest 20" in plan.reasons["class_weight"]
    assert "class_weight='balanced'" in format_plan(plan)
    weighed = recommend(dataclasses.replace(FACTS, smallest=20, largest=300), RunConfig(class_weight="balanced"))
    assert "class_weight" not in weighed.reasons
    assert "class_weight" not in recommend(dataclasses.replace(FACTS, smallest=100, largest=300)).reasons


def test_settings_of_phases_go_to_those_that_train_blocks():
    head, fine = phases(plans.lp_ft(layer_decay=0.8, optimizer="adamw", weight_decay=0.01))
    assert head == Phase("frozen", "none", 0, 0.0, head="linear_probe")
    assert (fine.layer_decay, fine.optimizer, fine.weight_decay) == (0.8, "adamw", 0.01)
    first, second = phases(plans.fastai(global_clipnorm=1.0))
    assert (first.global_clipnorm, second.global_clipnorm) == (None, 1.0)


def test_what_does_not_fit_a_plan_is_refused_all_at_once():
    with pytest.raises(PlanError, match="Unknown plan 'gradul'. Did you mean 'gradual'"):
        plans.named("gradul")
    with pytest.raises(PlanError) as caught:
        phases(NamedPlan("fastai", {"layer_decy": 0.5, "stages": 2}), unfreeze=3, head_epochs=2)
    for told in (
        "unfreeze= does not apply to the plan 'fastai', which takes epochs, learning_rate",
        "head_epochs= does not apply",
        "'layer_decy' is not a setting of a phase. Did you mean 'layer_decay'",
        "'stages' is not a setting of a phase",
    ):
        assert told in str(caught.value)
    with pytest.raises(PlanError, match="'learning_rate' is not a setting"):
        phases(plans.lp_ft(learning_rate=1e-3))


def test_settings_of_loss_and_balance_are_checked():
    with pytest.raises(PlanError) as caught:
        RunConfig(loss="focall", class_weight="balance", sampling="equal").check()
    for told in (
        "Did you mean 'focal'",
        "class_weight: Expected None, 'balanced'",
        "sampling: Expected None or 'balanced'",
    ):
        assert told in str(caught.value)
    with pytest.raises(PlanError, match="give one of them"):
        RunConfig(class_weight="balanced", sampling="balanced").check()


def test_what_is_switched_off_is_not_in_the_yaml():
    values = Phase("fine-tune", 3, 5, 1e-3, mixup_alpha=0.2).to_dict()
    assert values["mixup_alpha"] == 0.2
    assert values["schedule"] == "cosine"  # what is on is written, also where it is the default
    assert not {"ema_decay", "lora_rank", "lr_multipliers", "global_clipnorm"} & set(values)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "few_shot"),
        ({"fit": 0.6, "fit_high": 0.7}, "lp_ft"),
        ({"fit": 0.6, "fit_high": 0.8}, "few_shot"),  # 16 right of 20 may be luck
        ({"fit": 0.6, "fit_high": 0.7, "smallest": 4}, "few_shot"),
        ({"fit": 0.6, "fit_high": 0.7, "texts": True}, "few_shot"),
    ],
)
def test_few_examples_train_blocks_only_if_a_linear_head_surely_fails(changes, name):
    plan = recommend(dataclasses.replace(FACTS, **{"examples": 80, "smallest": 8, **changes}))
    assert plan.name == name
    if name == "lp_ft":
        assert plan.phases[1].unfreeze == "all"
        assert "8 examples in the smallest class are few, but a linear head" in plan.reasons["plan"]


def test_data_that_a_linear_head_does_badly_on_trains_all_blocks():
    usual = recommend(FACTS)
    for fit in (None, 0.95):
        known = recommend(dataclasses.replace(FACTS, fit=fit))
        assert (known.phases, known.reasons) == (usual.phases, usual.reasons)
    assert usual.phases[1].unfreeze == 9
    far = recommend(dataclasses.replace(FACTS, fit=0.4))
    assert far.phases[1].unfreeze == "all"
    assert far.phases[1].learning_rate > 3 * usual.phases[1].learning_rate
    assert "closes only 40% of the gap" in far.reasons["unfreeze"]
    doubtful = recommend(dataclasses.replace(FACTS, fit=0.75, fit_high=0.88))  # of few examples
    assert doubtful.phases[1].unfreeze == usual.phases[1].unfreeze
    assert doubtful.phases[1].learning_rate == far.phases[1].learning_rate
    assert recommend(dataclasses.replace(FACTS, fit=0.4), RunConfig(unfreeze=2)).phases[1].unfreeze == 2
    perfect = recommend(dataclasses.replace(FACTS, fit=1.0, fit_high=1.0))
    assert [phase.head for phase in perfect.phases] == ["linear_probe"]
    assert "  because a linear head on the pretrained features makes no mistake" in summarize_plan(perfect)
    assert recommend(dataclasses.replace(FACTS, fit=1.0), RunConfig(unfreeze=2)).name == "lp_ft"
