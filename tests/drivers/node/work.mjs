// One piece of work with node-postgres: `node work.mjs NAME` reads an endpoint as JSON on stdin and prints what it saw
// as JSON. What is thrown ends the process with status 1.
import assert from "node:assert/strict";
import { once } from "node:events";
import { text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import pg from "pg";
import copy from "pg-copy-streams";
import Cursor from "pg-cursor";

const endpoint = JSON.parse(await text(process.stdin));

async function withClients(count, work, more = {}) {
  const clients = Array.from({ length: count }, () => new pg.Client({ ...endpoint, ...more }));
  await Promise.all(clients.map((client) => client.connect()));
  try {
    return await work(...clients);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

async function code(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code ?? error.message;
  }
  assert.fail("no error");
}

const works = {
  async startUp() {
    const seen = [];
    await withClients(
      2,
      async (one, two) => {
        for (const client of [one, two, one, two]) {
          const { rows } = await client.query("SELECT current_setting('application_name') AS name, $1::int AS n", [7]);
          seen.push(rows[0]);
        }
      },
      { application_name: "shop", statement_timeout: 30_000, idle_in_transaction_session_timeout: 30_000 },
    );
    return seen;
  },

  async values() {
    return await withClients(1, async (client) => {
      const values = [
        ["bool", true],
        ["int", -7],
        ["int8", "9007199254740993"],
        ["numeric", "12345678901234567890.123456789"],
        ["text", "naïve ☃ \\ ' $1"],
        ["int[]", [1, null, 3]],
        ["jsonb", { a: [1, null] }],
        ["text", null],
      ];
      for (const [type, value] of values) {
        const { rows } = await client.query(`SELECT $1::${type} AS value`, [value]);
        assert.deepEqual(rows[0].value, value);
      }
      const when = new Date("2024-02-29T23:59:59.999Z");
      const bytes = Buffer.from([0, 255, 92]);
      const { rows } = await client.query("SELECT $1::timestamptz AS at, $2::bytea AS bytes", [when, bytes]);
      assert.deepEqual(rows[0], { at: when, bytes });
      return values.length;
    });
  },

  async transactions() {
    return await withClients(2, async (one, two) => {
      await one.query("CREATE TABLE t (a int PRIMARY KEY)");
      await one.query("BEGIN");
      await one.query("INSERT INTO t VALUES ($1)", [1]);
      await one.query("SAVEPOINT s");
      const duplicate = await code(one.query("INSERT INTO t VALUES (2), (1)"));
      const aborted = await code(one.query("SELECT 1"));
      await one.query("ROLLBACK TO s");
      await one.query("INSERT INTO t VALUES (3)");
      await one.query("COMMIT");
      await two.query("BEGIN ISOLATION LEVEL SERIALIZABLE");
      await two.query("DELETE FROM t");
      await two.query("ROLLBACK");
      const { rows } = await two.query({ text: "SELECT a FROM t ORDER BY a", rowMode: "array" });
      return { duplicate, aborted, rows };
    });
  },

  async prepared() {
    return await withClients(5, async (...clients) => {
      let sum = 0;
      for (let turn = 0; turn < 10; turn++) {
        for (const [number, client] of clients.entries()) {
          // One name in all clients, but not one text.
          const query = { name: "mine", text: `SELECT ${number} + $1::int AS n`, values: [turn] };
          const { rows } = await client.query(query);
          assert.equal(rows[0].n, number + turn);
          sum += rows[0].n;
        }
      }
      // All at once, so that they wait for each other.
      await Promise.all(
        clients.map(async (client, number) => {
          const { rows } = await client.query({ name: "mine", text: `SELECT ${number} + $1::int AS n`, values: [1] });
          assert.equal(rows[0].n, number + 1);
        }),
      );
      return sum;
    });
  },

  async cursor() {
    return await withClients(2, async (one, two) => {
      await one.query("BEGIN");
      const cursor = one.query(new Cursor("SELECT generate_series(1, $1::int) AS n", [500]));
      let sum = 0;
      for (let rows = await cursor.read(60); rows.length > 0; rows = await cursor.read(60)) {
        sum += rows.reduce((total, row) => total + row.n, 0);
      }
      await cursor.close();
      await one.query("COMMIT");
      // Outside of a transaction, and closed before its end.
      const early = one.query(new Cursor("SELECT generate_series(1, 1000) AS n"));
      const first = (await early.read(2)).map((row) => row.n);
      await early.close();
      const { rows } = await two.query("SELECT 1 AS n");
      return { sum, first, rows };
    });
  },

  async copy() {
    return await withClients(2, async (one, two) => {
      await one.query("CREATE TABLE t (a int, b text)");
      const lines = Array.from({ length: 5000 }, (_, a) => `${a}\tx${a}\n`);
      await pipeline(Readable.from(lines), one.query(copy.from("COPY t FROM STDIN")));
      const wrong = Array.from({ length: 5000 }, () => "wrong\ty\n");
      const failed = await code(pipeline(Readable.from(wrong), one.query(copy.from("COPY t FROM STDIN"))));
      const out = await text(two.query(copy.to("COPY t TO STDOUT")));
      assert.equal(out, lines.join(""));
      const { rows } = await one.query("SELECT count(*)::int AS n FROM t");
      return { failed, rows };
    });
  },

  async notifications() {
    return await withClients(2, async (listener, sender) => {
      const heard = [];
      listener.on("notification", (notice) => heard.push([notice.channel, notice.payload]));
      await listener.query("LISTEN news");
      for (const payload of ["one", "two"]) {
        const arrived = once(listener, "notification");
        await sender.query("SELECT pg_notify('news', $1)", [payload]);
        await arrived;
      }
      await listener.query("UNLISTEN news");
      await sender.query("NOTIFY news");
      await listener.query("SELECT 1");
      return heard;
    });
  },

  async timeouts() {
    const hasty = await withClients(
      1,
      async (client) => {
        const timedOut = await code(client.query("SELECT pg_sleep(600)"));
        const { rows } = await client.query("SELECT 1 AS n");
        return { timedOut, rows };
      },
      { statement_timeout: 400 },
    );
    const calm = await withClients(1, async (client) => {
      return (await client.query("SELECT 1 AS n FROM pg_sleep(0.7)")).rows;
    });
    return { hasty, calm };
  },

  async errors() {
    return await withClients(1, async (client) => {
      const codes = [];
      for (const statement of ["SELECT 1/0", "SELEC 1", "SELECT * FROM nowhere", "SELECT 'x'::int"]) {
        codes.push(await code(client.query(statement)));
        codes.push(await code(client.query({ text: statement, values: [] , name: statement })));
        await client.query("SELECT 1");
      }
      return codes;
    });
  },

  async crowd({ clients, rounds } = endpoint.crowd) {
    const pool = new pg.Pool({ ...endpoint, max: clients });
    for (const statement of endpoint.crowd.create) await pool.query(statement);
    await Promise.all(
      Array.from({ length: clients }, async (_, number) => {
        for (let turn = 0; turn < rounds; turn++) {
          for (const fate of ["ROLLBACK", "COMMIT"]) {
            const client = await pool.connect();
            await client.query("BEGIN");
            await client.query("INSERT INTO entries VALUES ($1, $2)", [number, turn]);
            await client.query({ name: "count", text: "UPDATE counter SET n = n + 1" });
            await client.query(fate);
            client.release();
          }
        }
      }),
    );
    const { rows } = await pool.query({ text: endpoint.crowd.totals, rowMode: "array" });
    await pool.end();
    return rows[0].map(Number);
  },
};

console.log(JSON.stringify(await works[process.argv[2]]()));
