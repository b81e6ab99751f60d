"""The Gymnasium environments: one page, and many side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import fionalm.web
from fionalm.errors import UserError
from fionalm.web import Action, Browser, BrowserConfig, MiniWobVectorEnv, WebVectorEnv
from fionalm.web.observations import Observation

from .probing import difference

NAME = "fiona/miniwob.click-test-2-v0"


def button(observation: Observation | dict, text: str = "ONE") -> int:
    return next(node["ref"] for node in observation["dom"] if node["text"] == text)


def split(batch: dict) -> list[dict]:
    return [{"dom": dom} for dom in batch["dom"]]


@pytest.mark.parametrize("fast", [False, True])
def test_an_episode(fast: bool) -> None:
    env = gymnasium.make(NAME, fast=fast, screenshot=True)
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        assert observation in env.observation_space
        assert observation["utterance"] == "Click button ONE."
        assert observation["screenshot"].shape == (210, 160, 3) and observation["screenshot"].std() > 10
        assert not any(info.values())
        right = seed % 2 == 0
        action = Action("click", ref=button(observation, "ONE" if right else "TWO"))
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated) == (1.0 if right else -1.0, True, False)
        assert info["success"] is right and info["raw_reward"] == reward and not info["error"]
        assert observation in env.observation_space
    _, reward, terminated, truncated, info = env.step(action)
    assert reward == 0 and truncated and "reset first" in info["error"]
    env.close()
    env.close()


def test_actions_of_every_form_and_errors_in_info() -> None:
    env = gymnasium.make(NAME, limit_steps=4)
    observation, _ = env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step({"kind": "click", "ref": 99})
    assert (reward, terminated, truncated) == (0, False, False)
    assert info["error"] == "there is no element with ref 99" and not info["fault"]
    with pytest.raises(UserError, match="kind of action"):
        env.step({"kind": "clack"})
    sample = {**env.action_space.sample(), "kind": 0}
    assert env.step(sample)[3] is False and env.step(None)[3] is False
    assert env.step(None)[2:4] == (False, True)
    observation, _ = env.reset(seed=1)
    sample = {**env.action_space.sample(), "kind": 1, "by": 0, "ref": button(observation)}
    assert env.step(sample)[1] == 1.0
    env.close()


def test_render_shows_the_page() -> None:
    env = gymnasium.make(NAME)
    env.reset(seed=1)
    first = env.render()
    assert isinstance(first, np.ndarray) and first.shape == (210, 160, 3) and first.dtype == np.uint8
    assert (first[45, 150] == [255, 255, 0]).all(), "the instruction's yellow"
    env.reset(seed=2)
    assert not np.array_equal(np.asarray(env.render()), first)
    env.close()


def test_the_generator_of_the_environment_draws_the_next_page() -> None:
    env = gymnasium.make(NAME)
    runs = []
    for _ in range(2):
        env.reset(seed=3)
        runs.append([env.reset()[0] for _ in range(3)])
    assert not any(difference(one, other) for one, other in zip(*runs, strict=True))
    assert difference(runs[0][0], runs[0][1])
    env.close()


def test_a_vector_of_pages() -> None:
    envs = gymnasium.make_vec(NAME, num_envs=3, screenshot=True)
    assert isinstance(envs, MiniWobVectorEnv) and envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    observations, infos = envs.reset(seed=5)
    assert observations in envs.observation_space and observations["screenshot"].shape == (3, 210, 160, 3)
    single = gymnasium.make(NAME, screenshot=True)
    for place in range(3):
        alone, _ = single.reset(seed=5 + place)
        assert not difference(alone, {key: value[place] for key, value in observations.items()})  # type: ignore[arg-type]
    actions = [
        Action("click", ref=button(one, text))
        for one, text in zip(split(observations), ("ONE", "TWO", "ONE"), strict=True)
    ]
    actions[2] = Action("none")
    observations, rewards, terminated, truncated, infos = envs.step(actions)
    assert rewards.tolist() == [1, -1, 0] and terminated.tolist() == [True, True, False] and not truncated.any()
    assert infos["success"].tolist() == [True, False, False]
    observations, rewards, terminated, *_ = envs.step([Action("click", ref=2)] * 3)
    assert not rewards.any() and not terminated.any(), "the step after the end starts the next episode"
    assert [dom[0]["ref"] for dom in observations["dom"]] == [1, 1, 1]
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space
    assert [frame.shape for frame in envs.render()] == [(210, 160, 3)] * 3
    with pytest.raises(UserError, match="2 actions for 3 pages"):
        envs.step([None, None])
    envs.close()
    single.close()


def test_autoreset_in_the_same_step_and_none() -> None:
    envs = MiniWobVectorEnv(["click-test-2", "click-test"], autoreset_mode="SameStep", fast=True)
    observations, _ = envs.reset(seed=1)
    assert observations["utterance"] == ("Click button ONE.", "Click the button.")
    action = [Action("click", ref=button(split(observations)[0])), Action("none")]
    observations, rewards, terminated, _, infos = envs.step(action)
    assert rewards.tolist() == [1, 0] and terminated.tolist() == [True, False]
    assert infos["final_info"]["success"][0] and infos["final_obs"][0]["utterance"] == "Click button ONE."
    assert infos["success"].tolist() == [False, False]
    assert envs.step([Action("click", ref=button(split(observations)[0])), None])[1][0] == 1
    envs.close()
    envs = MiniWobVectorEnv("click-test-2", 2, autoreset_mode=AutoresetMode.DISABLED, fast=True)
    observations, _ = envs.reset(seed=[1, 2])
    envs.step([Action("click", ref=button(split(observations)[0])), None])
    fresh, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert difference(fresh_of(fresh, 1), fresh_of(observations, 1)) == ""
    assert envs.step([Action("click", ref=button(split(fresh)[0])), None])[1].tolist() == [1, 0]
    envs.close()


def fresh_of(batch: dict, place: int) -> Observation:
    return {key: value[place] for key, value in batch.items()}  # type: ignore[return-value]


def test_a_browser_killed_in_the_middle_of_a_vector_step(page_task) -> None:
    pool = Browser(BrowserConfig())
    slow = page_task(
        "<button onclick='const end = Date.now() + 1500; while (Date.now() < end);'>wait</button>", name="slow"
    )
    envs = WebVectorEnv([slow] * 3, browser=pool)
    observations, _ = envs.reset(seed=0)
    ref = button(split(observations)[0], "wait")
    pid = pool.pid
    threading.Timer(0.4, os.kill, (pid, signal.SIGKILL)).start()
    observations, rewards, terminated, truncated, infos = envs.step([Action("click", ref=ref)] * 3)
    assert truncated.all() and not terminated.any() and not rewards.any()
    assert infos["fault"].all() and all("browser is gone" in error for error in infos["error"])
    assert observations in envs.observation_space
    _, _, _, truncated, infos = envs.step([None] * 3)
    assert not truncated.any() and not infos["fault"].any() and pool.pid != pid
    envs.close()
    pool.close()


def test_only_the_page_that_hangs_fails(page_task) -> None:
    pool = Browser(BrowserConfig(hang=2.0))
    hang = page_task("<button onclick='for (;;);'>x</button>", name="hang")
    fine = page_task("<button onclick='reward = 1; done = true'>x</button>", name="fine")
    envs = WebVectorEnv([hang, fine], browser=pool)
    observations, _ = envs.reset(seed=0)
    _, rewards, terminated, truncated, infos = envs.step(
        [Action("click", ref=button(one, "x")) for one in split(observations)]
    )
    assert rewards.tolist() == [0, 1] and terminated.tolist() == [False, True] and truncated.tolist() == [True, False]
    assert infos["fault"].tolist() == [True, False] and "hung" in infos["error"][0]
    _, _, _, truncated, infos = envs.step([None, None])
    assert not truncated.any() and not infos["fault"].any()
    envs.close()
    pool.close()


def test_vectors_refuse_what_they_cannot_be(page_task) -> None:
    with pytest.raises(UserError, match="at least one"):
        WebVectorEnv([])
    import dataclasses

    task = page_task("x")
    with pytest.raises(UserError, match="one size"):
        WebVectorEnv([task, dataclasses.replace(task, size=(10, 10))])


def test_importing_the_room_registers_and_loads_nothing_heavy() -> None:
    assert sum(name.startswith("fiona/miniwob.") for name in gymnasium.registry) == len(fionalm.web.MINIWOB_TASKS)
    code = (
        "import sys, fionalm.web, gymnasium; gymnasium.spec('fiona/miniwob.click-test-v0')\n"
        "heavy = {'torch', 'playwright', 'selenium', 'PIL', 'miniwob', 'fionalm.web.browser'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
