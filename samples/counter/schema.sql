-- A thousand rows, so that concurrent updates seldom meet on one.
CREATE TABLE counter (id int PRIMARY KEY, value bigint NOT NULL DEFAULT 0);
INSERT INTO counter (id) SELECT generate_series(1, 1000);
