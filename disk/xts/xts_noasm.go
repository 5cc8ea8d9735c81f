//go:build (!amd64 && !arm64) || purego

package xts

func detect() []path { return []path{portable} }

// schedule is empty where there is no assembly, nor are the methods called.
type schedule struct{}

func (c *Cipher) expandAssembly([]byte)                              {}
func (c *Cipher) cryptAssembly(_, _ []byte, _ int, _ uint64, _ bool) {}
