"""A check's definition judged, completed and given its runner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from registry.agent.definition_rules import (
    DefinitionRefused,
    check_problem,
    refuse_scripts,
    with_minimums,
)
from registry.agent.definitions import CheckDefinition, ServiceDefinition
from registry.agent.local.records import FROM_FILE
from registry.agent.local.settings import SettingsInForce
from registry.agent.services import check_key, complete_check, complete_service_checks
from registry.errors import Rejected
from registry.hooks import CheckRunner, CheckType

logger = logging.getLogger("registry.agent")


@dataclass(frozen=True, slots=True)
class PreparedCheck:
    """A check that passed every test and can be put in place without fail."""

    definition: CheckDefinition
    type_name: str
    runner: CheckRunner | None  # None: maintenance


class CheckFactory:
    """Prepares checks; `check_types` gives the kind that is registered under a key, or None."""

    def __init__(
        self, check_types: Callable[[str], CheckType | None], settings: SettingsInForce
    ) -> None:
        self._check_types = check_types
        self._settings = settings

    def complete(self, definition: CheckDefinition) -> CheckDefinition:
        """With its times raised to the least that is allowed."""
        complete, warnings = with_minimums(
            complete_check(definition),
            deregister_after_ns_min=self._settings().deregister_after_min_ns,
        )
        for warning in warnings:
            logger.warning("%s", warning)
        return complete

    def complete_of(self, service: ServiceDefinition) -> list[CheckDefinition]:
        """The checks that come along with a service."""
        return [self.complete(check) for check in complete_service_checks(service)]

    def prepare(self, definition: CheckDefinition, source: str) -> PreparedCheck:
        """Raises `Rejected` or `DefinitionRefused` for what can not be run."""
        if not definition.id:
            raise Rejected("CheckID missing")
        settings = self._settings()
        refuse_scripts(
            definition,
            source="file" if source == FROM_FILE else "http",
            enable_script_checks=settings.scripts_from_api,
            enable_local_script_checks=settings.scripts_from_files,
        )
        if reason := check_problem(definition):
            raise DefinitionRefused(f"Check is not valid: {reason}")
        key = check_key(definition)
        kind = self._check_types(key)
        if kind is None:
            raise DefinitionRefused(f'check {definition.id}: there is no check type "{key}"')
        try:
            runner = kind.create(definition)
        except ValueError as problem:
            raise DefinitionRefused(f"Check is not valid: {problem}") from problem
        return PreparedCheck(definition, kind.type_name, runner)
