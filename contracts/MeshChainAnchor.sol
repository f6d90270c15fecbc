// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Newest tree head of each log, by the account that anchored it
/// @notice Tree heads only grow. The contract does not check that a root is consistent with the
/// one before it (see MeshChainProofs), nor who may speak for a log: every sender has its own
/// heads, and a verifier decides which sender it believes for which log.
/// @dev No owner, no upgrade, no ether. Older heads remain in the events.
contract MeshChainAnchor {
    /// @dev Two slots, both overwritten by every anchor, so that its cost does not grow with the
    /// number of anchors.
    struct Head {
        bytes32 root;
        uint64 size;
        uint64 blockNumber;
        uint64 timestamp;
    }

    mapping(address sender => mapping(bytes32 logId => Head)) private heads;

    /// @param sender Account whose head of the log was replaced.
    /// @param logId Log, as the sender names it.
    /// @param prevSize Tree size of the replaced head, 0 if there was none.
    /// @param size Tree size, in leaves, of the new head.
    /// @param root RFC 9162 root hash of the tree of that size, as given by the sender.
    event Anchored(
        address indexed sender, bytes32 indexed logId, uint64 prevSize, uint64 size, bytes32 root
    );

    /// @notice The sender's anchored tree size is `current`, not the given previous size.
    error StaleHead(uint64 current);

    /// @notice The new tree size is not greater than the anchored one.
    error NotGrowing(uint64 prevSize, uint64 size);

    /// @notice Replaces the sender's tree head of a log, if it still has size `prevSize`.
    /// @param logId Log, as the sender names it.
    /// @param prevSize Tree size anchored last, 0 for the first anchor.
    /// @param size Tree size, in leaves; greater than `prevSize`.
    /// @param root Root hash of the tree of that size; not checked.
    function anchor(bytes32 logId, uint64 prevSize, uint64 size, bytes32 root) external {
        Head storage stored = heads[msg.sender][logId];
        uint64 current = stored.size;
        if (current != prevSize) revert StaleHead(current);
        if (size <= prevSize) revert NotGrowing(prevSize, size);

        stored.root = root;
        stored.size = size;
        stored.blockNumber = uint64(block.number);
        stored.timestamp = uint64(block.timestamp);
        emit Anchored(msg.sender, logId, prevSize, size, root);
    }

    /// @notice Tree head that `sender` anchored last for a log; all zero if it never did.
    /// @return size Tree size, in leaves.
    /// @return blockNumber Block of the anchor.
    /// @return timestamp Time of that block, in Unix seconds.
    /// @return root Root hash.
    function head(address sender, bytes32 logId)
        external
        view
        returns (uint64 size, uint64 blockNumber, uint64 timestamp, bytes32 root)
    {
        Head storage stored = heads[sender][logId];
        return (stored.size, stored.blockNumber, stored.timestamp, stored.root);
    }
}
