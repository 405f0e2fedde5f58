// The words of other modules that users' state machines need: with them a program has to import nothing but this one.
// Names given anew (`typealias`) do not do for protocols: a public declaration wants the module that they come from.
@_exported public import protocol Messages.Message
@_exported public import struct Primitives.ByteReader
@_exported public import struct Primitives.ByteWriter
@_exported public import struct Primitives.DecodingFailure
@_exported public import struct Primitives.LogTime
@_exported public import struct Primitives.SeededRandom
@_exported public import struct Primitives.SubMachineNumber
@_exported public import struct StateMachines.Done
@_exported public import protocol StateMachines.MachineCommand
@_exported public import struct StateMachines.MachineCommandNumber
@_exported public import struct StateMachines.MachineContext
@_exported public import struct StateMachines.MachineFailure
@_exported public import protocol StateMachines.MachineEvent
@_exported public import protocol StateMachines.MachineQuery
@_exported public import struct StateMachines.MachineRecord
@_exported public import struct StateMachines.MachineView
@_exported public import struct StateMachines.RegistrationFailure
@_exported public import struct StateMachines.ScheduledCommand
@_exported public import protocol StateMachines.StateMachine
@_exported public import struct StateMachines.StateMachineRegistry
