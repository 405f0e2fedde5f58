// The words of the data types that signatures here mention: with them a program has to import nothing but this module.
@_exported public import struct DataTypes.ArrayElementID
@_exported public import enum DataTypes.ArrayPlace
@_exported public import enum DataTypes.ArrayPoint
@_exported public import typealias DataTypes.EntryCondition
@_exported public import struct DataTypes.FoundEntry
@_exported public import struct DataTypes.MapTransaction
@_exported public import struct DataTypes.NumberFound
@_exported public import struct DataTypes.NumberState
@_exported public import enum DataTypes.Numeral
@_exported public import struct DataTypes.ObjectEntry
@_exported public import enum DataTypes.ObjectLimits
@_exported public import struct DataTypes.PermitEntry
@_exported public import enum DataTypes.PermitLimits
@_exported public import struct DataTypes.PermitListing
@_exported public import struct DataTypes.QueueCounts
@_exported public import struct DataTypes.SetCombine
@_exported public import struct StateMachines.FencingToken
