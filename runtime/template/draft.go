package template

import "errors"

// Duplicate copies memory and state of a guest that was saved, for a guest that shows what becomes of them. from stays
// as it is.
func (c *Copies) Duplicate() (_ *Copies, err error) {
	st, err := c.Memory.Stat()
	if err != nil {
		return nil, err
	}
	again := &Copies{}
	defer func() {
		if err != nil {
			err = errors.Join(err, again.Close())
		}
	}()
	if again.Memory, err = NewMemory(st.Size()); err != nil {
		return nil, err
	}
	if _, err := copyMemory(again.Memory, c.Memory, st.Size()); err != nil {
		return nil, err
	}
	if st, err = c.State.Stat(); err != nil {
		return nil, err
	}
	if again.State, err = NewMemory(st.Size()); err != nil {
		return nil, err
	}
	if _, err := copyAll(again.State, c.State, st.Size()); err != nil {
		return nil, err
	}
	return again, nil
}
