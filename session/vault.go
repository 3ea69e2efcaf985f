package session

import (
	"github.com/piped-dev/piped/keeper"
	"github.com/piped-dev/piped/pipe"
)

// A vault keeps the descriptors of a session with the keeper.
type vault struct{ account *keeper.Account }

// Put implements [pipe.Vault].
func (v vault) Put(items ...pipe.Item) error {
	kept := make([]keeper.Item, len(items))
	for i, it := range items {
		kept[i] = keeper.Item{Key: uint32(it.Key), FD: it.FD}
	}
	return v.account.Put(kept...)
}

// Remove implements [pipe.Vault].
func (v vault) Remove(keys ...pipe.Key) {
	kept := make([]uint32, len(keys))
	for i, k := range keys {
		kept[i] = uint32(k)
	}
	v.account.Remove(kept...)
}
