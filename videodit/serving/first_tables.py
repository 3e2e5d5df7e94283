"""The tables of the store as their first format had them, for SQLite and for PostgreSQL."""

FIRST_TABLES = """
    CREATE TABLE counters (name TEXT PRIMARY KEY, value {whole} NOT NULL){by_key};
    INSERT INTO counters VALUES ('revision', 0), ('forgotten', 0);
    CREATE TABLE jobs (
        id {name} PRIMARY KEY,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        parent TEXT,
        model TEXT NOT NULL,
        request TEXT NOT NULL,
        extra TEXT NOT NULL,
        settings TEXT NOT NULL,
        notices TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'in_progress', 'completed', 'failed')),
        position {real} NOT NULL,
        paused INTEGER NOT NULL,
        cancel TEXT CHECK (cancel IN ('drop', 'keep')),
        cancelled_at {real},
        worker TEXT,
        attempts INTEGER NOT NULL,
        beats INTEGER NOT NULL,
        stage TEXT,
        step INTEGER NOT NULL,
        steps INTEGER NOT NULL,
        seconds_left {real},
        preview INTEGER NOT NULL,
        error TEXT,
        output TEXT,
        recipe TEXT,
        favourite INTEGER NOT NULL,
        binned {real},
        created {real} NOT NULL,
        started {real},
        finished {real},
        expires {real},
        removed {real},
        deleted {real},
        revision {whole} NOT NULL
    );
    CREATE TABLE uploads (
        id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        kind TEXT NOT NULL,
        bytes {whole} NOT NULL,
        info TEXT NOT NULL,
        created {real} NOT NULL,
        expires {real} NOT NULL
    );
    CREATE TABLE models (name TEXT PRIMARY KEY, card TEXT, problem TEXT);
    CREATE TABLE workers (name TEXT PRIMARY KEY, state TEXT NOT NULL, facts TEXT);
    CREATE TABLE keys (
        name {name} PRIMARY KEY,
        hash TEXT NOT NULL UNIQUE,
        created {real} NOT NULL,
        options TEXT NOT NULL
    );
    CREATE TABLE sessions (hash TEXT PRIMARY KEY, owner TEXT NOT NULL, expires {real} NOT NULL){by_key};
    CREATE TABLE answers (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job TEXT NOT NULL,
        created {real} NOT NULL,
        PRIMARY KEY (owner, key)
    );
    CREATE TABLE watchers (name TEXT PRIMARY KEY, until {real} NOT NULL);
    """
"""Files and databases in use were made from this: what changes of it is a new script of both lists of migrations.

``{real}`` and ``{whole}`` stand for the types of numbers, ``{name}`` for that of texts that are sorted by their bytes,
and ``{by_key}`` for what a table is kept by its key with.
"""
