import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Event, EventBatch as WireBatch } from './gen/shardd/v1/shardd.js';
import { EventBatch, ShardEvent, shardIdFor } from './index.js';

it('finds the shard of a guild', () => {
  assert.equal(shardIdFor(0n, 16), 0);
  assert.equal(shardIdFor(81384788765712384n, 16), Number((81384788765712384n >> 22n) % 16n));
  assert.equal(shardIdFor('1288888888888888888', 1000), Number((1288888888888888888n >> 22n) % 1000n));
  assert.equal(shardIdFor(18446744073709551615n, 65535), Number((18446744073709551615n >> 22n) % 65535n));
  for (const count of [0, -1, 1.5, NaN]) assert.throws(() => shardIdFor(1n, count), RangeError);
});

it('keeps ids and offsets above 2^53 exact', () => {
  const wire = { offset: 9007199254740993n, guildId: 18446744073709551615n, receivedUnixNanos: 1700000000123456789n };
  const event = new ShardEvent(Event.decode(Event.encode(Event.fromPartial(wire)).finish()));

  assert.equal(event.offset, 9007199254740993n);
  assert.equal(event.guild, '18446744073709551615');
  assert.equal(event.receivedAt.getTime(), 1700000000123);
});

it('has no guild where the guild id is 0', () => {
  assert.equal(new ShardEvent(Event.fromPartial({})).guild, undefined);
});

it('does not copy the payload', () => {
  const received = Buffer.from(WireBatch.encode(WireBatch.fromPartial({ events: [{ data: Buffer.from('{"a":"é"}') }] })).finish());
  const event = new EventBatch(WireBatch.decode(received)).events[0];

  assert.ok(event);
  assert.equal(event.data.buffer, received.buffer);
  assert.deepEqual(event.data, Buffer.from('{"a":"é"}'));
});

it('parses when asked, and says so when the payload was left out', () => {
  const whole = new ShardEvent(Event.fromPartial({ type: 'READY', data: Buffer.from('{"a":"é"}'), dataBytes: 10n }));
  assert.deepEqual(whole.json(), { a: 'é' });

  const omitted = new ShardEvent(Event.fromPartial({ type: 'READY', dataBytes: 100n }));
  assert.ok(omitted.dataOmitted);
  assert.throws(() => omitted.json(), /100 bytes of this READY.*maxEventBytes/);
});
