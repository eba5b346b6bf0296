// Command init is the first process of a guest whose kernel has its drivers in modules: it loads those in /modules, in
// the order of their names, and becomes the agent. What fails it says on the console, and goes on: the host sees which
// stage is missing.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	modules, err := filepath.Glob("/modules/*.ko") // sorted
	if err != nil {
		fmt.Println("init:", err)
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			fmt.Printf("init: load %s: %v\n", m, err)
		}
	}
	fmt.Printf("init: %d modules\n", len(modules))
	const agent = "/sbin/agent"
	fmt.Printf("init: %s: %v\n", agent, unix.Exec(agent, []string{agent}, os.Environ()))
}

// load loads a module that is not packed.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}
