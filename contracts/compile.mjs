import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import solc from 'solc';

const USAGE = `usage: node compile.mjs [--check]

Compiles the contracts with the pinned solc and writes artifacts/*.json.

  --check  write nothing; exit 1 if an artifact differs from what the sources compile to
  --help   print this text
`;

const CONTRACTS = ['MeshChainAnchor', 'MeshChainProofs'];

// Runs on Besu, geth and anvil under every fork from London on: the code has no newer opcode. A
// private Besu QBFT genesis may go no further, and Shanghai's PUSH0 would save 6 gas per anchor.
const EVM_VERSION = 'paris';

const SETTINGS = {
  evmVersion: EVM_VERSION,
  // Anchors are called for years and deployed once.
  optimizer: { enabled: true, runs: 1_000_000 },
  // Without the metadata trailer the bytecode depends on code and compiler only.
  metadata: { appendCBOR: false, bytecodeHash: 'none' },
  outputSelection: { '*': { '*': ['abi', 'evm.bytecode.object', 'evm.deployedBytecode.object'] } },
};

const local = (path) => new URL(path, import.meta.url);

function compile() {
  const sources = Object.fromEntries(
    CONTRACTS.map((name) => [`${name}.sol`, { content: readFileSync(local(`${name}.sol`), 'utf8') }]),
  );
  const input = { language: 'Solidity', sources, settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  if (output.errors) {
    throw new Error(output.errors.map((e) => e.formattedMessage).join('\n'));
  }
  return CONTRACTS.map((name) => {
    const { abi, evm } = output.contracts[`${name}.sol`][name];
    return {
      contractName: name,
      abi,
      bytecode: `0x${evm.bytecode.object}`,
      deployedBytecode: `0x${evm.deployedBytecode.object}`,
      compiler: solc.version(),
      evmVersion: EVM_VERSION,
    };
  });
}

function sortKeys(_key, value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function readOrNull(url) {
  try {
    return readFileSync(url, 'utf8');
  } catch (error) {
    if (error.code === 'ENOENT') return null;
    throw error;
  }
}

function main() {
  const { values } = parseArgs({ options: { check: { type: 'boolean' }, help: { type: 'boolean' } } });
  if (values.help) {
    process.stdout.write(USAGE);
    return;
  }
  for (const artifact of compile()) {
    const path = `artifacts/${artifact.contractName}.json`;
    const text = `${JSON.stringify(artifact, sortKeys, 2)}\n`;
    if (!values.check) {
      mkdirSync(local('artifacts/'), { recursive: true });
      writeFileSync(local(path), text);
      console.log(`wrote ${path}`);
      continue;
    }
    const committed = readOrNull(local(path));
    if (committed === text) {
      console.log(`${path} matches its source`);
    } else {
      const problem = committed === null ? 'is missing' : 'differs from what its source compiles to';
      console.error(`${path} ${problem}; run: node compile.mjs`);
      process.exitCode = 1;
    }
  }
}

try {
  main();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
