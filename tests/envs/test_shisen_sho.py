from vlmgym_envs import make_game


def test_a_fresh_tiny_game_plays_to_the_end() -> None:
    game = make_game("shisen_sho", "tiny")
    state, total = game.init(0), 0.0
    while (action := game.solve(state)) is not None:
        step = game.step(state, action)
        assert step.refused is None
        state, total = step.state, total + step.reward
    assert total == 6.0
    assert step.terminated and step.info["cleared"]
