"""etcd as the control plane: VTEPs write what they have into a store, and watch what others write.

Place in the house: in planes, above local and plane. records.py is what stands in the store, store.py speaks
with one member of it, book.py is what is known of its content, etcd.py keeps the two in step. docs/etcd.md is
for users.
"""
