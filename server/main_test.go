package server

import (
	"os"
	"testing"

	"github.com/piped-dev/piped/keeper/keepertest"
)

func TestMain(m *testing.M) {
	keepertest.Main()
	os.Exit(m.Run())
}
