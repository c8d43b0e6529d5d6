CREATE TABLE namespaces (
  name TEXT PRIMARY KEY,
  uid TEXT NOT NULL,
  tenant TEXT NOT NULL,
  provider TEXT NOT NULL,
  model TEXT NOT NULL,
  dimension BIGINT NOT NULL,
  quota_memories BIGINT,
  quota_bytes BIGINT,
  memories BIGINT NOT NULL DEFAULT 0,
  bytes BIGINT NOT NULL DEFAULT 0,
  -- Every writing transaction first adds one, which locks the row: the clock is ordered as commits are.
  clock BIGINT NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE memories (
  namespace TEXT NOT NULL,
  coordinate TEXT NOT NULL,
  kind TEXT NOT NULL,
  payload TEXT NOT NULL,
  importance DOUBLE PRECISION NOT NULL,
  version BIGINT NOT NULL,
  clock BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  -- A tombstone keeps the version, so that the coordinate's next memory continues it.
  deleted BIGINT NOT NULL,
  -- 1 while this version has no vector yet.
  pending BIGINT NOT NULL,
  writer TEXT NOT NULL,
  embedding BLOB,
  PRIMARY KEY (namespace, coordinate)
);
CREATE INDEX memories_clock ON memories (namespace, clock, coordinate);
CREATE INDEX memories_pending ON memories (updated_at) WHERE pending = 1;

CREATE TABLE links (
  namespace TEXT NOT NULL,
  from_coordinate TEXT NOT NULL,
  to_coordinate TEXT NOT NULL,
  link_type TEXT NOT NULL,
  strength DOUBLE PRECISION NOT NULL,
  metadata TEXT NOT NULL,
  updated_at BIGINT NOT NULL,
  PRIMARY KEY (namespace, from_coordinate, to_coordinate, link_type)
) WITHOUT ROWID;
CREATE INDEX links_to ON links (namespace, to_coordinate);

CREATE TABLE outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  event_id TEXT NOT NULL UNIQUE,
  topic TEXT NOT NULL,
  key TEXT NOT NULL,
  payload TEXT NOT NULL,
  created_at BIGINT NOT NULL
);
