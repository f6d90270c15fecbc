import { createHash } from 'node:crypto';

const sha256 = (...parts) => {
  const hash = createHash('sha256');
  parts.forEach((part) => hash.update(part));
  return hash.digest();
};

export const leafHash = (entry) => sha256(Buffer.of(0), entry);
export const node = (left, right) => sha256(Buffer.of(1), left, right);

/** Largest power of two smaller than n, for n > 1. */
function split(n) {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/** Merkle tree hash, RFC 9162 section 2.1.1. */
export function rootOf(leaves) {
  if (leaves.length === 0) return sha256();
  if (leaves.length === 1) return leaves[0];
  const k = split(leaves.length);
  return node(rootOf(leaves.slice(0, k)), rootOf(leaves.slice(k)));
}

/** Inclusion proof, RFC 9162 section 2.1.3.1. */
export function inclusionProof(index, leaves) {
  if (leaves.length === 1) return [];
  const k = split(leaves.length);
  const [left, right] = [leaves.slice(0, k), leaves.slice(k)];
  return index < k
    ? [...inclusionProof(index, left), rootOf(right)]
    : [...inclusionProof(index - k, right), rootOf(left)];
}

/** Consistency proof from the first `size1` leaves, 0 < size1, RFC 9162 section 2.1.4.1. */
export function consistencyProof(size1, leaves) {
  return subproof(size1, leaves, true);
}

function subproof(m, leaves, complete) {
  if (m === leaves.length) return complete ? [] : [rootOf(leaves)];
  const k = split(leaves.length);
  const [left, right] = [leaves.slice(0, k), leaves.slice(k)];
  return m <= k
    ? [...subproof(m, left, complete), rootOf(right)]
    : [...subproof(m - k, right, false), rootOf(left)];
}
