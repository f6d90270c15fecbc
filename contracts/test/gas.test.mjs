import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { deploy, send, startAnvil } from './anvil.mjs';
import { leafHash, node } from './merkle.mjs';

const STEADY_LIMIT = 40_000;
const CODE_LIMIT = 1_500;
const PATH = 20;

let anvil;

before(async () => {
  anvil = await startAnvil();
});
after(() => anvil?.stop());

const hash = (text) => leafHash(Buffer.from(text));

async function gasOf(tx) {
  const { status, gasUsed } = await send(anvil, tx);
  assert.equal(status, '0x1');
  return Number(gasUsed);
}

async function anchorGas(contract) {
  const gas = [];
  for (let i = 1; i <= 3; i++) {
    const args = [hash('log'), 256 * 1000 * (i - 1), 256 * 1000 * i, hash(`root ${i}`)];
    gas.push(await gasOf(contract.tx(anvil.accounts[1], 'anchor', ...args)));
  }
  return gas;
}

async function inclusionGas(contract) {
  const index = 0b1010_0101_1100_0011_0110;
  const leaf = hash('leaf');
  const proof = Array.from({ length: PATH }, (_, level) => hash(`sibling ${level}`));
  const root = proof.reduce(
    (below, sibling, level) => ((index >> level) & 1 ? node(sibling, below) : node(below, sibling)),
    leaf,
  );
  const args = [index, 2 ** PATH, leaf, proof, root];
  assert.deepEqual([...(await contract.call('verifyInclusion', ...args))], [true]);
  return gasOf(contract.tx(anvil.accounts[1], 'verifyInclusion', ...args));
}

const codeSize = (contract) => (contract.deployedBytecode.length - 2) / 2;

test('gas_and_code_size_stay_within_their_limits', async () => {
  const anchorContract = await deploy(anvil, 'MeshChainAnchor');
  const proofsContract = await deploy(anvil, 'MeshChainProofs');
  const [first, second, steady] = await anchorGas(anchorContract);
  const measured = {
    first_anchor_gas: first,
    steady_anchor_gas: steady,
    inclusion_path_20_gas: await inclusionGas(proofsContract),
    anchor_code_bytes: codeSize(anchorContract),
    proofs_code_bytes: codeSize(proofsContract),
  };
  console.table(measured);
  if (process.env.BENCH === '1') writeBench(measured);

  assert.ok(Math.abs(steady - second) < 100, `anchors cost ${second}, then ${steady} gas`);
  assert.ok(steady < STEADY_LIMIT, `steady anchor costs ${steady} gas`);
  assert.ok(measured.anchor_code_bytes < CODE_LIMIT, `code is ${measured.anchor_code_bytes} bytes`);
});

function writeBench(measured) {
  const folder = new URL('../../target/bench/', import.meta.url);
  mkdirSync(folder, { recursive: true });
  writeFileSync(new URL('gas.json', folder), `${JSON.stringify(measured, null, 2)}\n`);
}
