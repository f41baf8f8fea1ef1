//! Text to tokens: corpora, byte-level BPE vocabularies, memory-mapped token shards, data order.
