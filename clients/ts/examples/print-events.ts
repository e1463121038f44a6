// A bot that prints what happens: node dist/examples/print-events.js [--address HOST:PORT] [--events N] [--from earliest|latest]
// It may be started before the server, and it goes on by itself after the server was away.
import { parseArgs } from 'node:util';
import { ShardClient, ShardControlError, type Gap, type ShardEvent } from '@shardd/client';

const { values: flags } = parseArgs({
  options: {
    address: { type: 'string', default: process.env['SHARDD_ADDRESS'] ?? '127.0.0.1:50051' },
    events: { type: 'string', default: 'Infinity' },
    from: { type: 'string', default: 'latest' },
  },
});
const { address = '', from } = flags;
const wanted = Number(flags.events);
if (!(wanted >= 1) || (from !== 'earliest' && from !== 'latest')) {
  console.error('usage: print-events [--address HOST:PORT] [--events N, 1 or more] [--from earliest|latest]');
  process.exit(2);
}

const stop = new AbortController();
process.once('SIGINT', () => stop.abort());
process.once('SIGTERM', () => stop.abort());
process.stdout.on('error', () => stop.abort()); // as in `| head`

const client = new ShardClient({ address });
let printed = 0;
try {
  const events = client.events(
    { from },
    {
      signal: stop.signal,
      onDisconnect: (error, ms) => console.log(`waiting for ${address}: ${error.message}; next try in ${Math.round(ms)} ms`),
    },
  );
  for await (const item of events) {
    console.log(item.kind === 'gap' ? describeGap(item) : describe(item));
    if (item.kind === 'event' && ++printed >= wanted) break;
  }
} catch (error) {
  if (!stop.signal.aborted) {
    console.error(error instanceof ShardControlError ? `${error.code} ${error.reason ?? ''}: ${error.message}` : error);
    process.exitCode = 1;
  }
} finally {
  client.close();
}
console.log(`printed ${printed} events`);

function describe(event: ShardEvent): string {
  const { offset, shardId, shardCount, type, guild, dataBytes } = event;
  const parts = [`#${offset}`, `shard ${shardId}/${shardCount}`, type, `guild ${guild ?? '-'}`, summary(event), `(${dataBytes} bytes)`];
  return parts.filter((part) => part !== '').join(' ');
}

// Only the types that are of interest are parsed: that is where the time goes.
function summary(event: ShardEvent): string {
  switch (event.type) {
    case 'MESSAGE_CREATE': {
      const { author, content } = event.json<{ author?: { username?: string }; content?: string }>();
      return `${author?.username ?? '?'}: ${JSON.stringify(content ?? '')}`;
    }
    case 'GUILD_CREATE': {
      const { name, member_count } = event.json<{ name?: string; member_count?: number }>();
      return `${JSON.stringify(name ?? '?')} with ${member_count ?? '?'} members`;
    }
    case 'SHARDD_SHARD_STATE': {
      const { state, reason } = event.json<{ state: string; reason: string }>();
      return `${state} ${reason}`.trim();
    }
    default:
      return '';
  }
}

function describeGap(gap: Gap): string {
  return `GAP: ${gap.lostEvents ?? 'an unknown number of'} events are missing here (${gap.reason})`;
}
