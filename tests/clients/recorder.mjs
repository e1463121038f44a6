import assert from 'node:assert/strict';

/** What a client library says, and waiting for some of it. */
export class Recorder {
  dispatches = [];
  ready = 0;
  resumed = 0;
  #waiting = new Set();

  /** @param payload as it came from the gateway, with op 0; a copy is kept, since libraries write into theirs */
  dispatch(payload, shardId) {
    this.dispatches.push({ payload: structuredClone(payload), shardId });
    this.check();
  }

  /** To be called after any change that somebody may wait for. */
  check() {
    for (const waiter of this.#waiting) {
      if (!waiter.condition(this)) continue;
      this.#waiting.delete(waiter);
      waiter.resolve();
    }
  }

  of(type) {
    return this.dispatches.filter(({ payload }) => payload.t === type);
  }

  until(condition) {
    return new Promise((resolve) => {
      this.#waiting.add({ condition, resolve });
      this.check();
    });
  }

  /**
   * Every number of every session, in order. A library may note a sequence some microtasks after it got the dispatch, so it
   * may RESUME a little before what it has seen; what comes a second time then must be what came first.
   */
  assertNoHoles() {
    const sessions = new Map();
    for (const { payload, shardId } of this.dispatches) {
      if (payload.t === 'READY') sessions.set(shardId, [undefined]);
      const seen = sessions.get(shardId);
      assert.ok(payload.s <= seen.length, `shard ${shardId}: ${payload.t} has s=${payload.s} after ${seen.length - 1}`);
      if (payload.s === seen.length) seen.push(payload);
      else assert.deepEqual(payload, seen[payload.s]);
    }
  }

  /** READYs, guilds and messages of `shards` shards, each where it belongs. */
  assertOwnGuilds(shards) {
    const owner = (id) => Number((BigInt(id) >> 22n) % BigInt(shards));
    for (const { payload, shardId } of this.of('READY')) {
      assert.deepEqual(payload.d.shard, [shardId, shards]);
      for (const { id } of payload.d.guilds) assert.equal(owner(id), shardId);
    }
    for (const { payload, shardId } of this.of('MESSAGE_CREATE')) assert.equal(owner(payload.d.guild_id), shardId);
  }
}
