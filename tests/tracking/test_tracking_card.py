from medseg.tracking.card import LIMITS, Card, write_card

CARD = Card(
    pipeline="hippocampus_mr",
    version="1.2.3",
    purpose="Two parts of the hippocampus in T1 MR.",
    counts={"training cases": 160},
    labels={1: "anterior", 2: "posterior"},
    metrics=[{"label": "anterior", "dice": 0.87654}, {"label": "posterior", "dice": None}],
    plan={"spacing_mm": (1.0, 1.0, 1.25)},
    hashes={"weights, fold 0": "ab" * 32},
    data_note="MSD Task04, CC-BY-SA 4.0.",
)


def test_card_shows_scores_rounded_and_undefined_as_a_dash():
    assert "| label | dice |\n|---|---|\n| anterior | 0.8765 |\n| posterior | – |" in write_card(CARD)


def test_card_shows_counts_plan_hashes_and_the_licence_of_the_data():
    text = write_card(CARD)

    for part in ("| training cases | 160 |", "| spacing_mm | 1 × 1 × 1.25 |", "ab" * 32, "CC-BY-SA 4.0"):
        assert part in text


def test_card_states_the_limits():
    assert all(f"- {limit}" in write_card(CARD) for limit in LIMITS)


def test_empty_sections_are_left_out():
    text = write_card(Card("p", "1", "Purpose.", {}, {1: "organ"}))

    assert "## Plan" not in text
    assert "## Data" not in text
    assert "None were measured." in text


def test_pipe_in_a_value_does_not_break_the_table():
    assert r"| a\|b |" in write_card(Card("p", "1", "Purpose.", {}, {1: "a|b"}))
