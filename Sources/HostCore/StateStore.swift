// State machines write into the replica's memtable.

import Primitives
public import StateMachines
public import Storage

extension Memtable: RecordStore {}
