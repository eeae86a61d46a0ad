"""Which registry a broker's configuration names."""

from __future__ import annotations

from tempos import Unavailable
from tempos_broker.config.model import BrokerConfig, FleetConfig
from tempos_broker.fleet.aside import Aside
from tempos_broker.fleet.registry import Registry
from tempos_broker.fleet.rows import BrokerRow


def registry_of(config: FleetConfig) -> Registry | None:
    """Where the fleet of a broker is told of; None: it is in none. Raises :class:`Unavailable`."""
    if not config.name:
        return None
    try:
        from tempos_broker.fleet.etcd import Etcd, context
    except ImportError as error:
        raise Unavailable(f"a fleet needs tempos[fleet]: {error.name} is missing") from error
    try:
        secure = any(each.startswith("https:") for each in config.etcd)
        verify = context(config.ca, config.certificate, config.key) if secure else True
    except OSError as error:
        raise Unavailable(
            f"TLS towards etcd cannot be had from fleet.ca, certificate and key: {error}"
        ) from error
    prefix = f"/tempos/{config.name}/"
    user, password = config.user, config.password
    return Aside(lambda: Etcd(config.etcd, prefix, user=user, password=password, verify=verify))


def row_of(config: BrokerConfig, instance: int) -> BrokerRow:
    """How a broker tells the others of itself."""
    api = f"{config.api_host}:{config.api_port}" if config.api_port else ""
    return BrokerRow(
        config.name, config.fleet.address or config.listen[0], config.data_port, config.control_port,
        instance, config.fleet.zone, api,
    )  # fmt: skip
