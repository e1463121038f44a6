// Generates src/gen/ from the contract: protoc (Debian: protobuf-compiler) with ts-proto, for grpc-js.
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const options = [
  'outputServices=grpc-js',
  'esModuleInterop=true',
  'importSuffix=.js',
  'forceLong=bigint', // guild ids and offsets exceed 2^53
  'oneof=unions',
  'enumsAsLiterals=true',
  'stringEnums=true', // states read as SHARD_STATE_READY
  'outputJsonMethods=false',
  'useExactTypes=false',
];

rmSync(`${root}/src/gen`, { recursive: true, force: true });
mkdirSync(`${root}/src/gen`, { recursive: true });
const { status, error } = spawnSync(
  'protoc',
  [
    '--plugin=node_modules/.bin/protoc-gen-ts_proto',
    '--proto_path=../../proto',
    '--ts_proto_out=src/gen',
    `--ts_proto_opt=${options.join(',')}`,
    'shardd/v1/shardd.proto',
  ],
  { cwd: root, stdio: 'inherit' },
);
if (error) console.error(`cannot run protoc (Debian: apt-get install protobuf-compiler): ${error.message}`);
process.exit(status ?? 1);
