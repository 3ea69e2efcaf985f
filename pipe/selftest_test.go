package pipe

import "testing"

func TestKernelKeepsTheCursorsThatExactMovesNeed(t *testing.T) {
	for _, c := range SelfTest() {
		if c.Err != nil {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
	}
}
