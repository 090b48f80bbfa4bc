"""No attack."""

from dataclasses import dataclass

from fempi.attacks import Attack
from fempi.registry import register


@register("attack", "none")
@dataclass(frozen=True, kw_only=True)
class NoAttack(Attack):
    """Everybody is honest, whatever number of malicious clients is configured."""

    malicious_clients_exist = False
