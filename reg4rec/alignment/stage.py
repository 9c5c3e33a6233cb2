"""The training stage behind `align`: rollouts, their rewards, and the loss of a batch of them."""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reg4rec import distributed
from reg4rec.alignment.config import AlignConfig
from reg4rec.alignment.futures import Cut, CutBatches
from reg4rec.alignment.grpo import distance, group_advantages, policy_loss
from reg4rec.alignment.rewards import (
    REWARDS,
    Reward,
    RewardedPaths,
    category_hit,
    future_weights,
    global_path,
    matched_tokens,
    order_reward,
    step_consistency,
    step_hit,
)
from reg4rec.alignment.rollouts import Policy, Rollouts, best_paths, evaluate_paths, roll_out
from reg4rec.data import Dataset, Sequences
from reg4rec.data.fingerprint import fingerprint
from reg4rec.distributed import mean, ratio, total
from reg4rec.errors import InputError
from reg4rec.loop import Validation
from reg4rec.model import Memory, Reg4RecModel, encoded_histories, padded
from reg4rec.recommend import Recommender
from reg4rec.settings import override
from reg4rec.train.config import PretrainConfig
from reg4rec.train.fit import weights_of
from reg4rec.train.pretrain import PretrainStage
from reg4rec.train.validation import validate
from reg4rec.train.windows import Batch

__all__ = ["AlignBatch", "AlignStage"]

KS = (5, 10, 50)
PROBED = 4
"""Number of batches whose users are probed: paths are drawn for them before training and after every epoch."""


class AlignBatch(NamedTuple):
    """Input of one training step: cut histories, rollouts for them, and a batch of pre-training (`anchor`).

    recorded: the policy at rollout time. reference_BGS: log-probabilities of the actions under the pre-trained model.
    rewards_XBG: each reward of each path. found: the recommended items, rows (B, N; -1 for none), if the model
    scores items, else the paths whose probabilities rank them. seconds: time by part.
    """

    cut: Cut
    rollouts: Rollouts
    recorded: Policy
    reference_BGS: Tensor
    rewards_XBG: Tensor
    found: Tensor | Rollouts
    anchor: Batch
    seconds: dict[str, float]


class Drawn(NamedTuple):
    """Statistics of the probed users' paths: figures by name, and the mean reward of each user's paths."""

    figures: dict[str, float]
    reward_B: Tensor


class AlignStage:
    """The alignment stage that `reg4rec.loop` runs.

    `reference` is the pre-trained recommender, whose policy is the reference of the KL divergence; `recommender` has
    the model that is trained.
    """

    name = "align"
    monitor = "validation_recall@10"

    def __init__(
        self,
        recommender: Recommender,
        data: Dataset,
        config: AlignConfig,
        seed: int,
        own: Mapping[str, tuple[float, Reward]] = MappingProxyType({}),
    ):
        """`own`: see `own_rewards` of `align`."""
        if recommender.config.order != "confidence":
            raise InputError(f"alignment needs a search with order 'confidence', found {recommender.config.order!r}")
        if not recommender.items.ids.equals(data.items.ids):
            raise InputError(f"the recommender's items are not those of {data.name}; align it on its own training data")
        if recommender.trained_on != "train":
            raise InputError(
                f"the recommender was trained on {recommender.trained_on}, so validation cannot choose an epoch; "
                "align a recommender that was trained on the training part only"
            )
        if not len(CutBatches(data.part("train"), config.window, config.batch_users, seed, 0)):
            raise InputError(f"no user of {data.name} has two training items: alignment needs a past and a future item")
        self.data, self.config, self.seed = data, config, seed
        self.device = recommender.device
        self.reference = recommender
        policy = copy.deepcopy(recommender.model).requires_grad_(True)
        self.anchor = PretrainStage(data, recommender.tokenizer, anchor_config(policy), seed, self.device, policy)
        self.recommender = recommender.with_model(policy)  # shares the weights, so it ranks with the present ones
        num_codebooks = policy.config.num_codebooks
        self.num_steps = min(recommender.config.num_steps or num_codebooks, num_codebooks)
        weights = {name: getattr(config.rewards, name) for name in REWARDS}
        if policy.category_head is None:
            weights |= {"category_hit": 0.0, "step_consistency": 0.0}
        weights |= {name: weight for name, (weight, _) in own.items()}
        self.own, self.reward_names = own, list(weights)
        self.share_X = (torch.tensor(list(weights.values())) / sum(weights.values())).to(self.device)
        self.module = policy
        weights_of_own = {"own_rewards": {name: weight for name, (weight, _) in own.items()}} if own else {}
        self.settings: dict[str, Any] = {
            **self.anchor.settings,
            "stage": self.name,
            **weights_of_own,
            **{name: value for name, value in asdict(config).items() if name != "loop"},
            "search": asdict(recommender.config),
            "start": fingerprint({}, weights_of(recommender.model), {}),
        }

    @property
    def policy(self) -> Reg4RecModel:
        return self.recommender.model

    def batches(self, epoch: int) -> Sequence[AlignBatch]:
        """Batches that are rolled out with the present policy when the loop asks for them (on-policy)."""
        return _OnPolicy(self, epoch)

    def loss(self, batch: AlignBatch) -> dict[str, Tensor]:
        config = self.config
        self.policy.eval()  # with dropout, probability ratios would differ from 1 without a change of the policy
        memory = encoded_histories(self.recommender.model, self.recommender.codes_IM, batch.cut.histories)
        policy = evaluate_paths(self.policy, memory, batch.rollouts, config.temperature)
        advantage_BG, dead_B = group_advantages(self._mixed(batch.rewards_XBG), batch.rollouts.valid_BG)
        taken_BGS = (batch.rollouts.valid_BG & ~dead_B[:, None])[..., None].expand_as(policy.log_probs_BGS)
        learned = policy_loss(
            policy.log_probs_BGS,
            batch.recorded.log_probs_BGS,
            batch.reference_BGS,
            advantage_BG,
            taken_BGS,
            config.clip,
        )
        self.policy.train()
        anchor = self.anchor.loss(batch.anchor)["loss"]
        order_B = self._order_reward(batch, memory)
        reward_order = mean(order_B)
        loss = learned.objective + config.kl_weight * learned.kl + config.anchor_weight * anchor
        return {
            "loss": loss - config.order_weight * reward_order,
            "objective": learned.objective,
            "reward_order": reward_order,
            "found_futures": mean((order_B != 0).float()),
            "kl_live": learned.kl,  # of the groups that are not dead
            "clip_fraction": learned.clip_fraction,
            "anchor_loss": anchor,
            "dead_groups": mean(dead_B.float()),
            "advantage": mean(advantage_BG.abs()),
            **self._statistics(batch),
        }

    def _mixed(self, rewards_XBG: Tensor) -> Tensor:
        """The reward (B, G) of each path: the weighted sum of all rewards."""
        return (self.share_X[:, None, None] * rewards_XBG).sum(0)

    def end_epoch(self, epoch: int) -> Validation:
        """Validation metrics, and figures of the probed users' paths: `end_*`, in the first epoch also `start_*`.

        `start_*` are those before training. `end_gain` is the gain of their mean reward since then, with the same users
        and random numbers; `end_gain_error` is its standard error.
        """
        found, before, now = self.validate(), self._before, self._draw(self.recommender)
        gain_B = (now.reward_B - before.reward_B).double()
        sums = distributed.summed(
            {"users": len(gain_B), "gain": float(gain_B.sum()), "squares": float(gain_B.square().sum())}
        )
        gain, square = sums["gain"] / sums["users"], sums["squares"] / sums["users"]
        metrics = {f"end_{name}": value for name, value in now.figures.items()}
        metrics |= {"end_gain": gain, "end_gain_error": math.sqrt(max(0.0, square - gain**2) / sums["users"])}
        if epoch == 0:
            metrics |= {f"start_{name}": value for name, value in before.figures.items()}
        return found._replace(metrics=found.metrics | metrics)

    @cached_property
    def _before(self) -> Drawn:
        return self._draw(self.reference)

    @torch.no_grad()
    def _draw(self, recommender: Recommender) -> Drawn:
        """Draw paths of a recommender for the probed users; does not change the random state of the training."""
        c = self.config
        cuts = CutBatches(self.data.part("train"), c.window, c.batch_users, self.seed, 0)
        sums: dict[str, float] = {}
        rewards, count = list[Tensor](), min(PROBED, len(cuts))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for cut in (cuts[i] for i in range(count)):
                memory = encoded_histories(recommender.model, recommender.codes_IM, cut.histories)
                rollouts = self.roll_out(recommender, memory)
                recorded = evaluate_paths(recommender.model, memory, rollouts, c.temperature)
                past = self.reference_policy(cut, rollouts)
                reward_XBG = self.rewards(cut, rollouts, recorded)
                kl = distance(recorded.log_probs_BGS, past.log_probs_BGS)[rollouts.valid_BG]
                figures = {**self._signs(rollouts, recorded, reward_XBG), "kl": mean(kl)}
                sums = {name: sums.get(name, 0.0) + float(value) / count for name, value in figures.items()}
                rewards.append(self._mixed(reward_XBG).masked_fill(~rollouts.valid_BG, 0).mean(1))
        return Drawn(sums, torch.cat(rewards))

    def roll_out(self, recommender: Recommender, memory: Memory) -> Rollouts:
        """Rollouts of a recommender's model for encoded histories."""
        c = self.config
        return roll_out(
            recommender.model, memory, recommender.index, c.group_size, self.num_steps, c.temperature, c.rollout
        )

    def reference_policy(self, cut: Cut, rollouts: Rollouts) -> Policy:
        """The pre-trained model's policy on these paths."""
        return evaluate_paths(
            self.reference.model,
            encoded_histories(self.reference.model, self.reference.codes_IM, cut.histories),
            rollouts,
            self.config.temperature,
        )

    def validate(self) -> Validation:
        """Validation on a sample of users."""
        c = self.config
        # seed + 1: the users that chose the epoch of a pre-training with this seed overrate its model
        return validate(self.recommender, self.data, self.monitor, c.protocol, c.validation_users, self.seed + 1, KS)

    def _statistics(self, batch: AlignBatch) -> dict[str, Tensor]:
        """Batch means of rewards and of signs that the training goes wrong."""
        rollouts, values = batch.rollouts, {}
        for name, reward_BG in zip(self.reward_names, batch.rewards_XBG, strict=True):
            dead_B = group_advantages(reward_BG, rollouts.valid_BG)[1]
            values[f"reward_{name}"] = mean(reward_BG[rollouts.valid_BG])
            values[f"spread_{name}"] = mean(reward_BG.std(1, correction=0))
            values[f"dead_{name}"] = mean(dead_B.float())
        values |= self._signs(rollouts, batch.recorded, batch.rewards_XBG)
        tokens_TM = rollouts.tokens_BGM(self.policy.config.num_codebooks)[rollouts.valid_BG]
        _, items_X = self.recommender.index.items_with_tokens(tokens_TM.unique(dim=0))
        values["unique_items"] = (total(items_X.bincount(minlength=self.data.num_items)) > 0).sum().float()
        return values | {f"{name}_seconds": torch.tensor(seconds) for name, seconds in batch.seconds.items()}

    def _signs(self, rollouts: Rollouts, recorded: Policy, rewards_XBG: Tensor) -> dict[str, Tensor]:
        """Figures that show whether the paths collapse."""
        valid_BG = rollouts.valid_BG
        tokens_TM = rollouts.tokens_BGM(self.policy.config.num_codebooks)[valid_BG]
        different = torch.cat([valid_BG.nonzero()[:, :1], tokens_TM], 1).unique(dim=0)
        categories = recorded.category_BGS[valid_BG].flatten().clamp(min=0)
        count_C = total(categories.bincount(minlength=len(self.data.items.category_names) or 1))
        return {
            "reward": mean(self._mixed(rewards_XBG)[valid_BG]),
            "reward_step_consistency": mean(rewards_XBG[self.reward_names.index("step_consistency")][valid_BG]),
            "entropy": mean(recorded.entropy_BGS[valid_BG]),
            "path_diversity": ratio(*(torch.tensor(len(x), device=self.device) for x in (different, tokens_TM))),
            "top_category": count_C.max() / count_C.sum(),
        }

    def _order_reward(self, batch: AlignBatch, memory: Memory) -> Tensor:
        """reward_B for the order of the found items, with a gradient to the scores that order them."""
        future_BF = padded(batch.cut.futures, -1).to(self.device)
        weight_B1F = self._weights(future_BF)[:, None]
        if isinstance(batch.found, Rollouts):
            found_BN, tokens_BNM = batch.found.valid_BG, batch.found.tokens_BGM(self.policy.config.num_codebooks)
            codes_B1FM = self.anchor.codes_IM[future_BF.clamp(min=0)][:, None]
            hit_BNF = matched_tokens(tokens_BNM[:, :, None], codes_B1FM) == self.num_steps
            hit_BN = (hit_BNF * weight_B1F).sum(2) * found_BN
            # users whose paths hit no future item have reward 0 and no gradient
            user_b = hit_BN.any(1).nonzero().squeeze(1)
            paths = Rollouts(*(values[user_b] for values in batch.found))
            log_probs_bNS = evaluate_paths(self.policy, memory.of_users(user_b), paths, 1.0).log_probs_BGS
            scores_BN = torch.zeros_like(hit_BN).index_put((user_b,), log_probs_bNS.sum(-1))
        else:
            found_BN = batch.found >= 0
            history_BX = padded(batch.cut.histories, -1).to(self.device)
            user_T = torch.arange(len(batch.found), device=self.device).repeat_interleave(batch.found.shape[1])
            item_T = batch.found.clamp(min=0).flatten()
            scores_BN = self.policy.score_items(
                memory.state_BD, history_BX, user_T, self.anchor.codes_IM[item_T], item_T
            ).view_as(batch.found)
            hit_BN = ((batch.found[:, :, None] == future_BF[:, None]) * weight_B1F).sum(2)
        return order_reward(scores_BN, hit_BN, found_BN)

    def _weights(self, future_BF: Tensor) -> Tensor:
        return future_weights((future_BF >= 0).float(), self.config.decay)

    def found(self, histories: Sequences, memory: Memory) -> Tensor | Rollouts:
        """`AlignBatch.found` for these histories; paths have the same probabilities as in the search."""
        if self.policy.scores_items:
            return torch.from_numpy(self.recommender.rank(histories, max(KS), filter_seen=False)).long().to(self.device)
        renormalized = self.policy.config.renormalize
        return best_paths(self.policy, memory, self.recommender.index, max(KS), self.num_steps, renormalized)

    @torch.no_grad()
    def rewards(self, cut: Cut, rollouts: Rollouts, recorded: Policy) -> Tensor:
        """rewards_XBG in the order of `reward_names`: weighted sums over future items, consistency once a path (D9)."""
        item_BF = padded(cut.futures, -1).to(self.device)
        weight_B1F = self._weights(item_BF)[:, None]
        tokens_BGM = rollouts.tokens_BGM(self.policy.config.num_codebooks)
        row_BF = item_BF.clamp(min=0)
        matched_BGF = matched_tokens(tokens_BGM[:, :, None], self.anchor.codes_IM[row_BF][:, None])
        target_B1F = self.anchor.category_I[row_BF][:, None]
        hits_BGF = category_hit(recorded.category_BGS[:, :, None], target_B1F.expand_as(matched_BGF))
        each = {
            "step_hit": (weight_B1F * step_hit(matched_BGF, self.num_steps)).sum(-1),
            "category_hit": (weight_B1F * hits_BGF).sum(-1),
            "step_consistency": step_consistency(recorded.js_BGS, self.config.consistency_threshold),
            "global_path": (weight_B1F * global_path(matched_BGF, self.num_steps)).sum(-1),
        }
        paths = RewardedPaths(
            cut.histories,
            item_BF,
            weight_B1F[:, 0],
            tokens_BGM,
            recorded.category_BGS,
            recorded.js_BGS,
            rollouts.valid_BG,
        )
        each |= {name: _checked(name, reward(paths), rollouts.valid_BG) for name, (_, reward) in self.own.items()}
        return torch.stack([each[name] for name in self.reward_names])


def _checked(name: str, reward_BG: Tensor, valid_BG: Tensor) -> Tensor:
    """The values of a caller's reward, 0 for rollouts that are not paths; InputError if they cannot be rewards."""
    if not isinstance(reward_BG, Tensor) or reward_BG.shape != valid_BG.shape:
        found = tuple(reward_BG.shape) if isinstance(reward_BG, Tensor) else type(reward_BG).__name__
        raise InputError(f"reward {name!r} must return a tensor of shape {tuple(valid_BG.shape)}, found {found}")
    reward_BG = reward_BG.to(valid_BG.device, torch.float32).masked_fill(~valid_BG, 0)
    if not bool(((reward_BG >= 0) & (reward_BG <= 1)).all()):
        low, high = float(reward_BG.min()), float(reward_BG.max())
        raise InputError(f"reward {name!r} must lie in 0..1, so that no reward dominates; found {low:g}..{high:g}")
    return reward_BG


class _OnPolicy(Sequence[AlignBatch]):
    """The batches of an epoch; each is rolled out with the present policy when the loop asks for it."""

    def __init__(self, stage: AlignStage, epoch: int):
        config = stage.config
        self.stage = stage
        self.cuts = CutBatches(stage.data.part("train"), config.window, config.batch_users, stage.seed, epoch)
        self.anchors = stage.anchor.batches(epoch)

    def __len__(self) -> int:
        return len(self.cuts)

    @torch.no_grad()
    def __getitem__(self, i: int) -> AlignBatch:  # type: ignore[override]
        stage, cut, temperature = self.stage, self.cuts[i], self.stage.config.temperature
        stage.policy.eval()
        began = time.perf_counter()
        memory = encoded_histories(stage.recommender.model, stage.recommender.codes_IM, cut.histories)
        rollouts = stage.roll_out(stage.recommender, memory)
        rolled = time.perf_counter()
        recorded = evaluate_paths(stage.policy, memory, rollouts, temperature)
        reference = stage.reference_policy(cut, rollouts)
        rewards_XBG = stage.rewards(cut, rollouts, recorded)
        found = stage.found(cut.histories, memory)
        seconds = {"rollout": rolled - began, "reward": time.perf_counter() - rolled}
        anchor = self.anchors[i % len(self.anchors)]
        return AlignBatch(cut, rollouts, recorded, reference.log_probs_BGS, rewards_XBG, found, anchor, seconds)


def anchor_config(model: Reg4RecModel) -> PretrainConfig:
    """The settings of the model's pre-training: the same losses with the same weights, on histories of its length.

    If the last epochs of the pre-training fed tokens in the model's own order, these are the settings of the epochs
    before. An older model without stored settings gets the defaults. InputError for stored settings that do not exist.
    """
    shape = model.config
    config = PretrainConfig(
        max_history=shape.max_history,
        score_items=model.scores_items,
        renormalize=shape.renormalize,
        category_weight=PretrainConfig().category_weight if shape.num_categories else 0.0,
    )
    try:
        return override(config, model.trained_by)
    except TypeError as error:
        raise InputError(f"the model was trained with settings {model.trained_by}: {error}; train it again") from None
