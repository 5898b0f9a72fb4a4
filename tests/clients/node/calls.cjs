// The calls that a program written with the npm package `consul` makes, against the agent whose
// port is in AGENT_PORT. Run by tests/clients/test_npm_consul.py with `node --test`.

"use strict";

const assert = require("node:assert/strict");
const { once } = require("node:events");
const { after, test } = require("node:test");
const Consul = require("consul");

const NODE = "n1";
const address = { host: "127.0.0.1", port: Number(process.env.AGENT_PORT) };
const consul = new Consul(address);

after(() => consul.destroy());

/** Poll a condition of the agent, with a deadline. */
async function until(condition, what) {
  const end = Date.now() + 20_000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("kv: values, keys and trees", async () => {
  assert.equal(await consul.kv.get("kv/none"), undefined);
  assert.equal(await consul.kv.set("kv/a", "text"), true);
  assert.equal(await consul.kv.set({ key: "kv/b", value: Buffer.from([0, 255]), flags: 42 }), true);
  assert.equal(await consul.kv.set("kv/sub/ä ?&", ""), true);
  const entry = await consul.kv.get({ key: "kv/b", buffer: true });
  assert.deepEqual([entry.Key, [...entry.Value], entry.Flags], ["kv/b", [0, 255], 42]);
  assert.deepEqual([...(await consul.kv.get({ key: "kv/b", raw: true }))], [0, 255]);
  assert.equal((await consul.kv.get("kv/sub/ä ?&")).Value, null);
  const tree = await consul.kv.get({ key: "kv/", recurse: true });
  assert.deepEqual(tree.map((each) => each.Key), ["kv/a", "kv/b", "kv/sub/ä ?&"]);
  assert.deepEqual(await consul.kv.keys({ key: "kv/", separator: "/" }), ["kv/a", "kv/b", "kv/sub/"]);
  for (const mode of [{ consistent: true }, { stale: true }])
    assert.equal((await consul.kv.get({ key: "kv/a", ...mode })).Value, "text");
  assert.equal(await consul.kv.del("kv/a"), true);
  assert.equal(await consul.kv.get("kv/a"), undefined);
  assert.equal(await consul.kv.del({ key: "kv/", recurse: true }), true);
  await assert.rejects(consul.kv.keys("kv/"), { statusCode: 404 });
});

test("kv: check and set", async () => {
  assert.equal(await consul.kv.set({ key: "cas/k", value: "1", cas: 0 }), true);
  // This client makes undefined of an answer of false.
  assert.ok(!(await consul.kv.set({ key: "cas/k", value: "2", cas: 0 })));
  const { ModifyIndex: index } = await consul.kv.get("cas/k");
  assert.equal(await consul.kv.set({ key: "cas/k", value: "2", cas: index }), true);
  assert.ok(!(await consul.kv.del({ key: "cas/k", cas: index })));
  const { ModifyIndex: later } = await consul.kv.get("cas/k");
  assert.equal(await consul.kv.del({ key: "cas/k", cas: String(later) }), true);
});

test("kv: a refused write", async () => {
  const acquire = "11111111-2222-3333-4444-555555555555";
  await assert.rejects(consul.kv.set({ key: "k", value: "v", acquire }), /invalid session/);
  await assert.rejects(consul.kv.set("large", "x".repeat(512 * 1024 + 1)), { statusCode: 413 });
});

test("transaction", async () => {
  const value = Buffer.from("v").toString("base64");
  const answer = await consul.transaction.create([
    { KV: { Verb: "set", Key: "txn/a", Value: value } },
    { KV: { Verb: "get", Key: "txn/a" } },
  ]);
  assert.equal(answer.Results[1].KV.Value, value);
  await assert.rejects(consul.transaction.create([{ KV: { Verb: "get", Key: "txn/none" } }]), {
    statusCode: 409,
  });
});

test("session: a lock passes from one to the next", async () => {
  const create = (name) => consul.session.create({ name, ttl: "10s", lockdelay: "1ms" });
  const [first, second] = [(await create("first")).ID, (await create("second")).ID];
  const write = (how) => consul.kv.set({ key: "lock/k", value: "v", ...how });
  assert.equal(await write({ acquire: first }), true);
  assert.ok(!(await write({ acquire: second })));
  const held = await consul.kv.get("lock/k");
  assert.deepEqual([held.Session, held.LockIndex], [first, 1]);
  assert.equal(await write({ release: first }), true);
  assert.equal(await write({ acquire: second }), true);
  const [renewed] = await consul.session.renew(second);
  assert.deepEqual([renewed.Name, renewed.TTL, renewed.LockDelay], ["second", "10s", 1_000_000]);
  assert.equal((await consul.session.get(second)).Node, NODE);
  const ids = (list) => list.map((each) => each.ID).sort();
  assert.deepEqual(ids(await consul.session.list()), [first, second].sort());
  assert.deepEqual(ids(await consul.session.node(NODE)), [first, second].sort());
  await consul.session.destroy(second);
  assert.equal((await consul.kv.get("lock/k")).Session, undefined);
  await consul.session.destroy(first);
  assert.equal(await consul.session.get(first), undefined);
});

test("agent: a service with a check of each call", async () => {
  await consul.agent.service.register({
    name: "web",
    id: "web-1",
    address: "10.1.2.3",
    port: 80,
    tags: ["v1"],
    meta: { shard: "7" },
    check: { name: "beat", checkid: "beat", ttl: "60s", notes: "a heart" },
  });
  const local = (await consul.agent.services())["web-1"];
  assert.deepEqual([local.Service, local.Port, local.Meta], ["web", 80, { shard: "7" }]);
  const state = async () => (await consul.agent.checks()).beat;
  for (const [call, status] of [["pass", "passing"], ["warn", "warning"], ["fail", "critical"]]) {
    await consul.agent.check[call]({ id: "beat", note: `now ${status}` });
    const check = await state();
    assert.deepEqual([check.Status, check.Output], [status, `now ${status}`]);
  }
  await until(async () => (await consul.catalog.service.nodes("web")).length === 1, "the service");
  await until(async () => (await consul.health.checks("web"))[0]?.Status === "critical", "its state");
  assert.deepEqual(await consul.health.service({ service: "web", passing: true }), []);
  await consul.agent.check.pass("beat");
  const passing = () => consul.health.service({ service: "web", passing: true, tag: "v1" });
  await until(async () => (await passing()).length === 1, "the service passing");
  await consul.agent.service.maintenance({ id: "web-1", enable: true, reason: "upgrade" });
  const maintained = (await consul.agent.checks())["_service_maintenance:web-1"];
  assert.deepEqual([maintained.Status, maintained.Notes], ["critical", "upgrade"]);
  await consul.agent.service.maintenance({ id: "web-1", enable: false });
  await consul.agent.service.deregister("web-1");
  await until(async () => (await consul.catalog.service.nodes("web")).length === 0, "it gone");
});

test("agent: checks of its own", async () => {
  await consul.agent.check.register({
    name: "script",
    id: "s",
    args: ["sh", "-c", "echo said"],
    interval: "1s",
    timeout: "5s",
  });
  const port = address.port;
  await consul.agent.check.register({
    name: "self",
    http: `http://127.0.0.1:${port}/v1/status/leader`,
    interval: "1s",
  });
  await consul.agent.check.register({ name: "port", tcp: `127.0.0.1:${port}`, interval: "1s" });
  const states = async () => Object.values(await consul.agent.checks()).map((each) => each.Status);
  await until(async () => (await states()).join() === "passing,passing,passing", "all passing");
  assert.equal((await consul.agent.checks()).s.Output, "said\n");
  for (const id of ["s", "self", "port"]) await consul.agent.check.deregister(id);
  assert.deepEqual(await consul.agent.check.list(), {});
});

test("agent: itself", async () => {
  const self = await consul.agent.self();
  assert.equal(self.Config.NodeName, NODE);
  assert.deepEqual((await consul.agent.members()).map((each) => each.Name), [NODE]);
  assert.deepEqual((await consul.agent.members({ wan: true })).map((each) => each.Name), [`${NODE}.dc1`]);
  await consul.agent.maintenance({ enable: true, reason: "disk" });
  assert.equal((await consul.agent.checks())._node_maintenance.Notes, "disk");
  await consul.agent.maintenance(false);
  await consul.agent.reload();
  await consul.agent.join(`127.0.0.1:${process.env.AGENT_SERF_PORT}`);
  const leader = await consul.status.leader();
  assert.deepEqual(await consul.status.peers(), [leader]);
});

test("catalog and health", async () => {
  await consul.catalog.register({
    node: "outside",
    address: "10.9.9.9",
    nodemeta: { rack: "r9" },
    service: { service: "redis", id: "r1", port: 6379, tags: ["cache"] },
    check: {
      node: "outside",
      name: "ping",
      checkid: "p",
      serviceid: "r1",
      status: "warning",
      definition: { tcp: "10.9.9.9:6379", intervalduration: "5s", timeoutduration: "1s" },
    },
  });
  assert.deepEqual(await consul.catalog.datacenters(), ["dc1"]);
  const nodes = async (options) => (await consul.catalog.nodes(options)).map((each) => each.Node);
  assert.deepEqual(await nodes(), [NODE, "outside"]);
  assert.deepEqual(await nodes({ filter: 'Meta.rack == "r9"' }), ["outside"]);
  assert.deepEqual(await nodes({ "node-meta": "rack:r1" }), [NODE]);
  assert.equal((await nodes({ near: NODE }))[0], NODE);
  assert.deepEqual((await consul.catalog.services()).redis, ["cache"]);
  assert.deepEqual(await consul.catalog.connect.nodes("redis"), []);
  assert.equal((await consul.catalog.node.services("outside")).Services.r1.Port, 6379);
  const [service] = await consul.catalog.service.nodes({ service: "redis", tag: "cache" });
  assert.deepEqual([service.Node, service.ServicePort], ["outside", 6379]);
  const [check] = await consul.health.node("outside");
  assert.deepEqual([check.CheckID, check.Definition.TCP], ["p", "10.9.9.9:6379"]);
  assert.equal((await consul.health.state("warning")).length, 1);
  assert.ok((await consul.health.state("any")).length > 1);
  assert.deepEqual(await consul.health.service({ service: "redis", passing: true }), []);
  await consul.catalog.deregister({ node: "outside", checkid: "p" });
  assert.equal((await consul.health.service({ service: "redis", passing: true })).length, 1);
  await consul.catalog.deregister("outside");
  assert.deepEqual(await nodes(), [NODE]);
});

test("event", async () => {
  const fired = await consul.event.fire({ name: "deploy", payload: Buffer.from([0, 1]), node: NODE });
  assert.deepEqual([...fired.Payload], [0, 1]);
  await consul.event.fire("note", "text");
  await until(async () => (await consul.event.list()).length === 2, "both events");
  const [found] = await consul.event.list("note");
  assert.equal(found.Payload, "text");
});

test("query", async () => {
  await consul.agent.service.register({ name: "q", port: 80, tags: ["blue"] });
  const { ID: query } = await consul.query.create({
    name: "find-q",
    service: { service: "q", tags: ["blue"], onlypassing: true, failover: { nearestn: 2 } },
    dns: { ttl: "5s" },
  });
  assert.equal((await consul.query.list()).length, 1);
  assert.deepEqual((await consul.query.get(query)).DNS, { TTL: "5s" });
  await until(async () => (await consul.query.execute("find-q")).Nodes.length === 1, "the service");
  assert.equal((await consul.query.execute({ query, near: NODE })).Nodes[0].Service.Port, 80);
  await consul.query.update({ query, name: "find-q", service: { service: "q", tags: ["red"] } });
  assert.deepEqual((await consul.query.execute(query)).Nodes, []);
  await consul.query.explain(query);
  const template = await consul.query.create({
    name: "near-",
    template: { type: "name_prefix_match", regexp: "^near-(.*)$" },
    service: { service: "${match(1)}" },
  });
  assert.equal((await consul.query.execute("near-q")).Nodes.length, 1);
  for (const id of [query, template.ID]) await consul.query.destroy(id);
  assert.deepEqual(await consul.query.list(), []);
  await consul.agent.service.deregister("q");
});

/** The values of a watch, until `count` changes have been seen; `step(n)` after the nth. */
async function watched(options, count, step) {
  const watch = consul.watch(options);
  const seen = [];
  let failure;
  watch.on("error", (error) => {
    failure = error;
    watch.end();
  });
  watch.on("change", (data) => {
    seen.push(data);
    if (seen.length === count) watch.end();
    else step(seen.length);
  });
  await once(watch, "end", { signal: AbortSignal.timeout(20_000) });
  assert.equal(failure, undefined);
  return seen;
}

test("watch: a key", async () => {
  await consul.kv.set("watch/k", "0");
  const options = { method: consul.kv.get, options: { key: "watch/k", wait: "10s" } };
  const seen = await watched(options, 4, (number) => consul.kv.set("watch/k", String(number)));
  assert.deepEqual(seen.map((each) => each.Value), ["0", "1", "2", "3"]);
});

test("watch: a service", async () => {
  const options = { method: consul.health.service, options: { service: "w", wait: "10s" } };
  const seen = await watched(options, 3, (number) =>
    number === 1 ? consul.agent.service.register("w") : consul.agent.service.deregister("w"),
  );
  assert.deepEqual(seen.map((each) => each.length), [0, 1, 0]);
});

test("watch: waits that end without a change", async () => {
  await consul.kv.set("watch/quiet", "0");
  const options = { key: "watch/quiet", wait: "100ms" };
  const watch = consul.watch({ method: consul.kv.get, options });
  let changes = 0;
  watch.on("change", () => changes++);
  let errors = 0;
  watch.on("error", () => errors++);
  const first = () => watch.updateTime();
  await until(first, "the first answer");
  const begun = first();
  await until(() => watch.updateTime() - begun > 400, "some more answers");
  watch.end();
  assert.deepEqual([changes, errors], [1, 0]);
});
