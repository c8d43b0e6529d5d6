CREATE TABLE namespaces (
  name TEXT COLLATE "C" PRIMARY KEY,
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
);

CREATE TABLE memories (
  namespace TEXT COLLATE "C" NOT NULL,
  coordinate TEXT COLLATE "C" NOT NULL,
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
  embedding BYTEA,
  PRIMARY KEY (namespace, coordinate)
);
CREATE INDEX memories_clock ON memories (namespace, clock, coordinate);
CREATE INDEX memories_pending ON memories (updated_at) WHERE pending = 1;

CREATE TABLE links (
  namespace TEXT COLLATE "C" NOT NULL,
  from_coordinate TEXT COLLATE "C" NOT NULL,
  to_coordinate TEXT COLLATE "C" NOT NULL,
  link_type TEXT NOT NULL,
  strength DOUBLE PRECISION NOT NULL,
  metadata TEXT NOT NULL,
  updated_at BIGINT NOT NULL,
  PRIMARY KEY (namespace, from_coordinate, to_coordinate, link_type)
);
CREATE INDEX links_to ON links (namespace, to_coordinate);

CREATE TABLE outbox (
  seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  event_id TEXT NOT NULL UNIQUE,
  topic TEXT NOT NULL,
  key TEXT NOT NULL,
  payload TEXT NOT NULL,
  created_at BIGINT NOT NULL
);

-- Each vector is written once, after its memory: leave room on the page for it.
ALTER TABLE memories SET (fillfactor = 80);
-- Vectors do not compress.
ALTER TABLE memories ALTER COLUMN embedding SET STORAGE EXTERNAL;
