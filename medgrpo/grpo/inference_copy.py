"""A plain copy of the policy for sampling, its adapter merged into the weights.

Sampling calls every adapted layer once per token: two small products more each time cost more than one merge per step.
The weights in training are never touched: only adapted layers have weights of their own here, all others are shared.
"""

import copy
from itertools import chain
from typing import Any

import torch
from torch import nn

FEW_ROWS = 64 if "AMD" in torch.cpu.get_capabilities().get("cpu_name", "") else 0
"""Up to so many rows a product is faster with the weights on the left: on AMD's CPUs, where MKL does worse."""


class FewRowsLinear(nn.Module):
    """A linear layer for inputs of few rows, over weights that belong to another layer.

    x·Wᵀ makes the library rearrange all of W for a handful of rows; (W·xᵀ)ᵀ reads it as it lies.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)."""
        rows = inputs.flatten(0, -2)
        if rows.size(0) > FEW_ROWS or rows.device.type != "cpu":
            return nn.functional.linear(inputs, self.weight, self.bias)
        outputs = (self.weight @ rows.t()).t()
        return (outputs if self.bias is None else outputs + self.bias).unflatten(0, inputs.shape[:-1])


class InferenceCopy:
    """The policy as a plain model. Call `refresh` before sampling: training moves the adapter on."""

    def __init__(self, policy: Any) -> None:
        """Build the copy's modules over the policy's weights.

        Args:
            policy: a `PeftModel` for which `can_be_copied` holds, or a model without an adapter.
        """
        base = policy.get_base_model() if hasattr(policy, "get_base_model") else policy
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        self.model = copy.deepcopy(base, shared)
        self.model.__dict__.pop("forward", None)  # TRL's fused head is bound to the model in training
        self._adapted: list[tuple[Any, torch.Tensor]] = []
        replaced: tuple[str, ...] = ()
        for name, layer in list(base.named_modules()):
            if name.startswith(replaced):
                continue  # the layer's own parts: its base and its adapters, of which a warm start leaves two
            if _is_adapted(layer):
                replaced += (f"{name}.",)
                merged = torch.empty_like(layer.base_layer.weight)
                self._adapted.append((layer, merged))
                self.model.set_submodule(name, FewRowsLinear(merged, layer.base_layer.bias))
            elif type(layer) is nn.Linear:
                self.model.set_submodule(name, FewRowsLinear(layer.weight.detach(), layer.bias))
        self.model.eval()

    @torch.no_grad()
    def refresh(self) -> Any:
        """Merge the adapter as it is now; the model to sample from."""
        for layer, merged in self._adapted:
            (adapter,) = layer.active_adapters
            torch.add(layer.base_layer.weight, layer.get_delta_weight(adapter), out=merged)
        return self.model


def can_be_copied(policy: Any) -> bool:
    """Whether a policy is plain LoRA on plain linear layers: not quantized, not sharded, and fit for the memory."""
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    if not isinstance(policy, PeftModel):
        return False
    layers = [layer for layer in policy.modules() if isinstance(layer, BaseTunerLayer)]
    return all(_is_adapted(layer) for layer in layers) and _fits(layers)


def _is_adapted(layer: Any) -> bool:
    from peft.tuners.lora import Linear

    if not isinstance(layer, Linear) or type(layer.base_layer) is not nn.Linear:
        return False
    return len(layer.active_adapters) == 1 and not (bool(layer.lora_variant) or bool(layer.merged))


def _fits(layers: list[Any]) -> bool:
    """Whether the copy's own weights take less than half of a GPU's free memory; the rest is for training."""
    device = layers[0].base_layer.weight.device
    if device.type != "cuda":
        return True
    needed = sum(layer.base_layer.weight.nbytes for layer in layers)
    free: int = torch.cuda.mem_get_info(device)[0]
    return bool(needed < free / 2)
