"""What workers and the web process tell each other beside jobs: models, workers, machines, and that somebody looks."""

from __future__ import annotations

import json
from typing import Literal

from videodit.json_types import JsonObject
from videodit.serving.database import Database


class Publications(Database):
    """What was published last."""

    def publish(self, name: str, card: JsonObject) -> None:
        """Say what a model is; see :mod:`videodit.serving.cards`."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO models VALUES (?, ?, NULL) "
                "ON CONFLICT (name) DO UPDATE SET card = excluded.card, problem = NULL",
                (name, json.dumps(card)),
            )

    def publish_problem(self, name: str, problem: str) -> None:
        """Say why a model cannot be used; :meth:`publish` takes it back."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO models VALUES (?, NULL, ?) ON CONFLICT (name) DO UPDATE SET problem = excluded.problem",
                (name, problem),
            )

    def card(self, name: str) -> str | None:
        """What is known of a model, as JSON text."""
        text = self._one("SELECT card FROM models WHERE name = ?", name)
        return None if text is None else str(text)

    def cards(self) -> dict[str, JsonObject]:
        """What is known of models, by name."""
        rows = self._db.execute("SELECT name, card FROM models WHERE card IS NOT NULL")
        return {row["name"]: json.loads(row["card"]) for row in rows}

    def problems(self) -> dict[str, str]:
        """Why models cannot be used, by name."""
        rows = self._db.execute("SELECT name, problem FROM models WHERE problem IS NOT NULL")
        return {row["name"]: row["problem"] for row in rows}

    def set_worker(self, name: str, state: Literal["starting", "ready"] | None) -> None:
        """Say how far a worker is; ``None``: it is gone."""
        with self._transaction():
            if state is None:
                self._db.execute("DELETE FROM workers WHERE name = ?", (name,))
            else:
                self._db.execute(
                    "INSERT INTO workers VALUES (?, ?, NULL) ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                    (name, state),
                )

    def workers(self) -> dict[str, str]:
        """How far workers are, by name: ``starting`` or ``ready``."""
        return {row["name"]: row["state"] for row in self._db.execute("SELECT * FROM workers")}

    def publish_machine(self, worker: str, facts: JsonObject) -> None:
        """Say what a worker computes with; see :mod:`videodit.serving.machine`."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO workers VALUES (?, 'starting', ?) ON CONFLICT (name) DO UPDATE SET facts = excluded.facts",
                (worker, json.dumps(facts)),
            )

    def machines(self) -> dict[str, JsonObject]:
        """What workers compute with, by their names; without those that have not told of it yet."""
        rows = self._db.execute("SELECT name, facts FROM workers WHERE facts IS NOT NULL ORDER BY name")
        return {row["name"]: json.loads(row["facts"]) for row in rows}

    def watch(self, name: str, seconds: float) -> None:
        """Say that somebody looks at running jobs, for so long."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO watchers VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET until = excluded.until",
                (name, self._clock() + seconds),
            )
